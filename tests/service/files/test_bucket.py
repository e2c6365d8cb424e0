"""The object store as a bucket: uploads, ranges, uploads that break off, deletion meanwhile, signed addresses."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.bucket import NAME, Bucket, bucket
from tests.control_plane import TINY_CONFIG, AttemptSide, ControlPlane, chat_rows, sha256
from tests.service.limits.application import serving
from tunesmith.service.keeper.unneeded_bytes import delete_unneeded_bytes
from tunesmith.tuning.messages import FileRef
from tunesmith.worker.transport.blobs import download
from tunesmith.worker.transport.wire import service_client

MIB = 1024**2
WEIGHTS = random.Random(1).randbytes(12 * MIB)  # three parts of an upload in parts
WEIGHTS_AS_ROWS = chat_rows() + b" " * (6 * MIB) + b"\n"


class BrokenOff(Exception):
    """The sender is gone."""


@pytest.fixture(scope="module")
def server() -> Iterator[Bucket]:
    with bucket() as made:
        yield made


@contextmanager
def over(plane: ControlPlane, server: Bucket, *, folder: str, signed: bool = False) -> Iterator[ControlPlane]:
    """The service over a folder of the bucket; `signed` lets it pass those who want large files on to it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        changes = {"store": f"s3://{NAME}/{folder}", "signed_downloads": signed}
        settings = plane.settings.model_copy(update=changes)
        with serving(settings) as url, plane.served_at(url, settings=settings) as served:
            yield served


@pytest.fixture
def site(control_plane: ControlPlane, server: Bucket, request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """The service over the bucket."""
    with over(control_plane, server, folder=request.node.name) as plane:
        yield plane


@pytest.fixture
def attempt(site: ControlPlane) -> AttemptSide:
    return site.claimed()


def put(attempt: AttemptSide, data: object, *, digest: str) -> httpx2.Response:
    return attempt.plane.request("PUT", attempt.path(f"blobs/{digest}"), key=attempt.claim.lease_token, content=data)


def pieces(data: bytes, *, then: Callable[[], None]) -> Iterator[bytes]:
    """The first two thirds, something in between, and the rest."""
    for start in range(0, 8 * MIB, MIB):
        yield data[start : start + MIB]
    then()
    yield data[8 * MIB :]


def test_weights_go_to_the_bucket_and_come_back_whole_and_in_ranges(site: ControlPlane) -> None:
    file_id = site.upload(WEIGHTS_AS_ROWS, name="rows.jsonl")
    path = f"/v1/files/{file_id}/content"
    assert site.request("GET", path).content == WEIGHTS_AS_ROWS
    part = site.request("GET", path, headers={"range": "bytes=5000000-5000099"})
    assert (part.status_code, part.content) == (206, WEIGHTS_AS_ROWS[5_000_000:5_000_100])


def test_an_upload_that_breaks_off_leaves_nothing_and_can_be_repeated(
    site: ControlPlane, attempt: AttemptSide, server: Bucket
) -> None:
    def break_off() -> None:
        raise BrokenOff

    with pytest.raises(BrokenOff):
        put(attempt, pieces(WEIGHTS, then=break_off), digest=sha256(WEIGHTS))
    assert site.sql("SELECT 1 FROM blobs WHERE is_stored AND sha256 = %s", sha256(WEIGHTS)) == []
    assert put(attempt, WEIGHTS, digest=sha256(WEIGHTS)).status_code == 204
    assert server.unfinished_uploads() == 0


def test_bytes_under_a_wrong_name_never_become_an_object(attempt: AttemptSide, server: Bucket) -> None:
    answer = put(attempt, WEIGHTS, digest="0" * 64)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "hash_mismatch")
    assert server.unfinished_uploads() == 0


def test_a_sweep_in_the_middle_of_an_upload_takes_only_what_nobody_is_sending(
    site: ControlPlane, attempt: AttemptSide
) -> None:
    unwanted = b"nobody refers to this" * 100
    for data in (WEIGHTS, unwanted):
        assert put(attempt, data, digest=sha256(data)).status_code == 204
    site.sql("UPDATE blobs SET kept_until = now() - interval '1 hour' WHERE bytes IN (%s, %s)", 12 * MIB, 2100)
    swept: list[int] = []
    again = pieces(WEIGHTS, then=lambda: swept.append(site.keep(delete_unneeded_bytes)))
    assert put(attempt, again, digest=sha256(WEIGHTS)).status_code == 204
    assert swept == [1]
    manifest = attempt.put(b"manifest", name="manifest.json")
    file = FileRef(name="state", sha256=sha256(WEIGHTS), bytes=len(WEIGHTS))
    files = [manifest.model_dump(), file.model_dump()]
    body = {"step": 1, "manifest_sha256": manifest.sha256, "files": files, "metrics": {}}
    assert attempt.post("checkpoints", body).status_code == 204
    site.sql("UPDATE blobs SET kept_until = now() - interval '1 hour'")
    site.keep(delete_unneeded_bytes)
    assert attempt.get(sha256(WEIGHTS)).content == WEIGHTS


def test_large_files_come_from_the_bucket_itself_under_an_address_for_one_object(
    control_plane: ControlPlane, server: Bucket
) -> None:
    with over(control_plane, server, folder="signed", signed=True) as site:
        file_id = site.upload(WEIGHTS_AS_ROWS)
        answer = site.request("GET", f"/v1/files/{file_id}/content")
        assert answer.status_code == 307
        address = answer.headers["location"]
        assert "X-Amz-Expires=300" in address
        assert httpx2.get(address, headers={"range": "bytes=0-9"}).content == WEIGHTS_AS_ROWS[:10]
        assert site.openai().files.content(file_id).content == WEIGHTS_AS_ROWS
        assert site.request("GET", f"/v1/files/{site.upload()}/content").status_code == 200


def test_a_worker_follows_a_signed_address_and_goes_on_where_it_stopped(
    control_plane: ControlPlane, server: Bucket, tmp_path: Path
) -> None:
    with over(control_plane, server, folder="worker", signed=True) as site:
        config = {**TINY_CONFIG, "_name_or_path": "weights"}  # whose bytes no other store of this database has
        site.add_model("weights", config=config, more={"model.safetensors": WEIGHTS})
        claim = site.claimed(model="weights").claim
        (file,) = [file for file in claim.base_model.files if file.name == "model.safetensors"]
        (tmp_path / f".model.{os.getpid()}.part").write_bytes(WEIGHTS[: 5 * MIB])
        client = service_client(site.url, claim.lease_token, timeout=30)
        path = f"/internal/attempts/{claim.attempt_id}/blobs/{file.sha256}"
        with client:
            download(client, path, file, tmp_path / "model", check=lambda: None)
        assert (tmp_path / "model").read_bytes() == WEIGHTS


def test_a_bucket_that_is_away_is_503_with_retry_after(control_plane: ControlPlane) -> None:
    form = {"data": {"purpose": "fine-tune"}, "files": {"file": ("rows.jsonl", b'{"text": "x"}\n')}}
    with bucket() as server, over(control_plane, server, folder="gone") as site:
        file_id = site.upload()
        server.stop()
        for answer in (
            site.request("GET", f"/v1/files/{file_id}/content"),
            site.request("POST", "/v1/files", **form),
        ):
            assert answer.status_code == 503, answer.text
            assert answer.headers["retry-after"]
            assert answer.json()["error"]["code"] == "object_store_unavailable"
