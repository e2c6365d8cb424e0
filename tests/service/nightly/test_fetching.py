"""Data from an address: only what the operator allows is ever connected to, and what came is on record."""

import asyncio
import io
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.control_plane import ControlPlane, chat_rows, sha256
from tests.service.nightly.data_server import HOST, DataServer, serving
from tests.service.nightly.nights import Nights
from tunesmith.service.schedules.fetching.addresses import AllowedAddresses
from tunesmith.service.schedules.fetching.download import Downloads
from tunesmith.service.schedules.fetching.fetch import DataFetcher
from tunesmith.tuning.errors import TunesmithError


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataServer]:
    with serving(Path(tmp_path_factory.mktemp("tls"))) as running:
        yield running


@pytest.fixture
def data(server: DataServer) -> DataServer:
    server.answers.clear()
    server.asked.clear()
    return server


def downloads(
    data: DataServer, *, addresses: Callable[[str], Iterable[str]] | None = None, **changes: Any
) -> Downloads:
    """As an operator would allow it whose data lies on a private machine; `addresses` says where names lead."""

    async def resolve(host: str, _port: int) -> Iterable[str]:
        return addresses(host) if addresses else ["127.0.0.1"]

    allowed = AllowedAddresses(
        changes.pop("prefixes", [f"https://{HOST}:{data.port}/sets/"]), changes.pop("private", [HOST])
    )
    options = {"limit_bytes": 100_000, "limit_seconds": 10, **changes}
    return Downloads(allowed, resolve=resolve, trust=data.trust, **options)


def fetched(using: Downloads, url: str) -> bytes:
    into = io.BytesIO()
    asyncio.run(using.fetch(url, into))
    return into.getvalue()


def refusal(using: Downloads, url: str) -> TunesmithError:
    with pytest.raises(TunesmithError) as refused:
        fetched(using, url)
    return refused.value


class TestAddresses:
    PREFIXES = ("https://data.example.com/sets/", "https://internal:8443")

    @pytest.mark.parametrize(
        "url",
        [
            "https://data.example.com/sets/a.jsonl",
            "https://data.example.com/sets/2026/a.jsonl?version=2",
            "https://DATA.example.com:443/sets/a.jsonl#part",
            "https://internal:8443/anything",
        ],
    )
    def test_what_begins_like_an_allowed_one_is_allowed(self, url: str) -> None:
        assert "#" not in AllowedAddresses(self.PREFIXES, ()).check(url)

    @pytest.mark.parametrize(
        "url",
        [
            "http://data.example.com/sets/a.jsonl",
            "https://data.example.com/setsuna/a.jsonl",
            "https://data.example.com/sets/../secret",
            "https://data.example.com/sets/%2e%2e/secret",
            "https://data.example.com:8443/sets/a.jsonl",
            "https://data.example.com.evil.org/sets/a.jsonl",
            "https://data.example.com@evil.org/sets/a.jsonl",
            "https://user:word@data.example.com/sets/a.jsonl",
            "https://evil.org\\@data.example.com/sets/a.jsonl",
            "https://data.example.com /sets/a.jsonl",
            "https://data.example.com/sets/a\r\nHost: x",
            "https://internal:99999999/x",
            "https://internal/x",
            "file:///etc/passwd",
            "//data.example.com/sets/a.jsonl",
            "",
        ],
    )
    def test_everything_else_is_refused(self, url: str) -> None:
        with pytest.raises(TunesmithError) as refused:
            AllowedAddresses(self.PREFIXES, ()).check(url)
        assert refused.value.code == "url_not_allowed"

    @pytest.mark.parametrize(
        "address",
        [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.1.1",
            "172.16.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",  # noqa: S104
            "224.0.0.1",
            "::1",
            "fe80::1",
            "fd00::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
        ],
    )
    def test_no_private_machine_is_connected_to_unless_its_name_is_allowed(self, address: str) -> None:
        with pytest.raises(TunesmithError):
            AllowedAddresses((), ()).check_machine("data.example.com", address)

    def test_a_public_machine_and_an_allowed_private_name_are_connected_to(self) -> None:
        AllowedAddresses((), ()).check_machine("data.example.com", "93.184.215.14")
        AllowedAddresses((), ()).check_machine("data.example.com", "2606:2800:21f::1")
        AllowedAddresses((), ("internal",)).check_machine("internal", "10.1.2.3")
        for address in ("169.254.169.254", "0.0.0.0", "fe80::1"):  # noqa: S104
            with pytest.raises(TunesmithError):
                AllowedAddresses((), ("internal",)).check_machine("internal", address)


class TestDownloads:
    def test_a_file_comes_as_it_is(self, data: DataServer) -> None:
        url = data.put("/sets/rows.jsonl", chat_rows())
        assert fetched(downloads(data), url) == chat_rows()
        assert data.asked == [f"{HOST}:{data.port} /sets/rows.jsonl"]

    def test_a_name_that_leads_to_a_private_machine_is_not_connected_to(self, data: DataServer) -> None:
        url = data.put("/sets/rows.jsonl", chat_rows())
        assert refusal(downloads(data, private=[]), url).code == "url_not_allowed"
        both = downloads(data, private=[], addresses=lambda _: ["93.184.215.14", "127.0.0.1"])
        assert refusal(both, url).code == "url_not_allowed"
        assert data.asked == []

    def test_the_checked_address_is_the_one_connected_to(self, data: DataServer) -> None:
        """A name that resolves to another machine a moment later gains nothing: it is looked up once."""
        looked_up: list[str] = []
        url = data.put("/sets/rows.jsonl", chat_rows())

        def changing(host: str) -> list[str]:
            looked_up.append(host)
            return ["127.0.0.1"] if len(looked_up) == 1 else ["10.0.0.1"]

        assert fetched(downloads(data, addresses=changing), url) == chat_rows()
        assert looked_up == [HOST]

    def test_a_redirect_is_followed_on_the_list_and_refused_off_it(self, data: DataServer) -> None:
        data.put("/sets/new", chat_rows())
        inside = data.put("/sets/old", b"", status=302, location="new")
        assert fetched(downloads(data), inside) == chat_rows()
        for place in ("/elsewhere", "https://evil.example.com/sets/x", "http://data.example.com/sets/x", ""):
            outside = data.put("/sets/out", b"", status=301, location=place)
            error = refusal(downloads(data), outside)
            assert error.code in ("url_not_allowed", "download_failed"), place
        private = data.put("/sets/in", b"", status=307, location=f"https://other.example.com:{data.port}/sets/new")
        prefixes = [f"https://{host}:{data.port}/sets/" for host in (HOST, "other.example.com")]
        assert refusal(downloads(data, prefixes=prefixes), private).code == "url_not_allowed"

    def test_a_circle_of_redirects_ends(self, data: DataServer) -> None:
        url = data.put("/sets/round", b"", status=302, location="/sets/round")
        error = refusal(downloads(data), url)
        assert ("redirects" in error.message, len(data.asked)) == (True, 4)

    def test_more_than_the_limit_is_refused_while_it_comes(self, data: DataServer) -> None:
        url = data.put("/sets/large", b"x" * 2_000_000)
        assert refusal(downloads(data), url).code == "request_too_large"

    @pytest.mark.parametrize(
        ("status", "may_pass"), [(404, False), (403, False), (500, True), (503, True), (429, True)]
    )
    def test_an_error_of_the_server_is_told_and_tried_again_when_it_may_pass(
        self, data: DataServer, status: int, may_pass: bool
    ) -> None:
        error = refusal(downloads(data), data.put("/sets/x", b"no", status=status))
        assert (str(status) in error.message, getattr(error, "may_pass", None)) == (True, may_pass)

    def test_a_body_that_is_cut_off_or_encoded_is_no_file(self, data: DataServer) -> None:
        short = data.put("/sets/short", b"half", content_length="100")
        assert refusal(downloads(data), short).code == "download_failed"
        packed = data.put("/sets/packed", b"...", content_encoding="gzip")
        assert "gzip" in refusal(downloads(data), packed).message

    @pytest.mark.parametrize("name", ["etag", "last_modified"])
    def test_what_changes_while_it_is_read_is_no_file_and_is_fetched_again_later(
        self, data: DataServer, name: str
    ) -> None:
        url = data.put("/sets/rows.jsonl", chat_rows(10), **{name: "first"})
        data.change("/sets/rows.jsonl", chat_rows(11), **{name.replace("_", "-"): "second"})
        error = refusal(downloads(data), url)
        assert ("changed while it was read" in error.message, getattr(error, "may_pass", None)) == (True, True)
        assert fetched(downloads(data), url) == chat_rows(11), "which stays as it is"
        assert len(data.asked) == 4

    def test_a_certificate_for_another_name_or_of_nobody_is_refused(self, data: DataServer) -> None:
        data.put("/sets/rows.jsonl", chat_rows())
        stranger = downloads(
            data, prefixes=[f"https://stranger.example.com:{data.port}/"], private=["stranger.example.com"]
        )
        assert refusal(stranger, f"https://stranger.example.com:{data.port}/sets/rows.jsonl").code == "download_failed"
        assert data.asked == []

    def test_a_server_that_never_answers_is_left_in_time(self, data: DataServer) -> None:
        async def never(_host: str, _port: int) -> Iterable[str]:
            await asyncio.sleep(60)
            return []

        using = Downloads(downloads(data).allowed, limit_bytes=1, limit_seconds=0.05, resolve=never, trust=data.trust)
        assert "took longer" in refusal(using, data.url("/sets/x")).message


class TestFirings:
    """A schedule whose data is an address."""

    @pytest.fixture
    def nights(self, control_plane: ControlPlane, data: DataServer) -> Nights:
        control_plane.app.state.settings = control_plane.settings.model_copy(
            update={"dataset_urls": (data.url("/sets/"),)}
        )
        yield Nights(control_plane)
        control_plane.app.state.settings = control_plane.settings

    def fetch(self, nights: Nights, data: DataServer) -> int:
        fetcher = DataFetcher(downloads(data))
        return nights.plane.run(lambda database: fetcher.fetch_all(nights.context(database)))

    def test_the_data_is_fetched_and_its_hash_recorded_before_the_job_is_made(
        self, nights: Nights, data: DataServer
    ) -> None:
        url = data.put("/sets/support.jsonl", chat_rows(30))
        nights.create(data={"url": url})
        assert nights.next_night()["state"] == "due", "nobody decides before the data is here"
        assert self.fetch(nights, data) == 1
        nights.sweep()
        firing = nights.firings()[0]
        assert firing["state"] == "submitted"
        assert firing["source"] == {
            "url": url,
            "sha256": sha256(chat_rows(30)),
            "bytes": len(chat_rows(30)),
            "file": firing["training_file"],
        }
        file = nights.get(f"/v1/files/{firing['training_file']}")
        assert (file["filename"], file["tunesmith"]["sha256"]) == ("support.jsonl", sha256(chat_rows(30)))
        nights.train()
        nights.next_night()
        self.fetch(nights, data)
        nights.sweep()
        assert [firing["state"] for firing in nights.firings()] == ["trained", "skipped"]
        assert len(nights.get("/v1/files?purpose=fine-tune")["data"]) == 1, "the same bytes are one file"

    def test_a_server_that_fails_is_asked_again_and_a_missing_file_ends_the_night(
        self, nights: Nights, data: DataServer
    ) -> None:
        url = data.put("/sets/rows.jsonl", b"", status=503)
        nights.create(data={"url": url})
        nights.next_night()
        self.fetch(nights, data)
        firing = nights.firings()[0]
        assert (firing["state"], firing["code"], firing["tries"]) == ("due", "download_failed", 1)
        assert self.fetch(nights, data) == 0, "not at once"
        nights.at += timedelta(minutes=1)
        data.put("/sets/rows.jsonl", b"", status=404)
        self.fetch(nights, data)
        firing = nights.firings()[0]
        assert (firing["state"], "404" in firing["reason"]) == ("failed", True)
        data.put("/sets/rows.jsonl", chat_rows())
        nights.next_night()
        self.fetch(nights, data)
        nights.sweep()
        assert nights.firings()[-1]["state"] == "submitted"

    def test_a_server_that_never_comes_back_ends_the_night_in_the_end(self, nights: Nights, data: DataServer) -> None:
        url = data.put("/sets/rows.jsonl", b"", status=503)
        nights.create(data={"url": url})
        nights.next_night()
        for _ in range(8):
            self.fetch(nights, data)
            nights.at += timedelta(hours=1)
        firing = nights.firings()[0]
        assert (firing["state"], firing["tries"]) == ("failed", 8)
