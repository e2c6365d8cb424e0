"""Schedules, firings and aliases are asked for cheaply: 304 while nothing changes, and news at once."""

from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.service.nightly.nights import PROD, Nights


@pytest.fixture
def nightly(nights: Nights) -> Nights:
    """One schedule that promotes every result, and the alias of its first."""
    nights.upload()
    nights.create(alias=PROD, promotion="always")
    nights.next_night()
    nights.train()
    return nights


def ask(nights: Nights, path: str, etag: str | None = None) -> httpx2.Response:
    headers = {} if etag is None else {"if-none-match": etag}
    return nights.plane.request("GET", path, headers=headers)


PATHS = (
    "/v1/schedules",
    "/v1/schedules/nightly",
    "/v1/schedules/nightly/firings",
    "/v1/aliases",
    f"/v1/aliases/{PROD}",
)


def test_what_has_not_changed_is_not_sent_again_and_what_has_is(nightly: Nights) -> None:
    known = {path: ask(nightly, path) for path in PATHS}
    for path, answer in known.items():
        etag = answer.headers["etag"]
        same = ask(nightly, path, etag)
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
        for written in (f'"another", {etag}', etag.removeprefix("W/"), "*"):
            assert ask(nightly, path, written).status_code == 304, written
    nightly.upload(rows=21)
    nightly.next_night()
    nightly.train()
    for path, answer in known.items():
        changed = ask(nightly, path, answer.headers["etag"])
        assert changed.status_code == 200, path
        assert changed.json() != answer.json()


def test_whoever_waits_for_a_firing_hears_of_it_at_once_and_not_of_one_that_has_ended(nightly: Nights) -> None:
    nightly.upload(rows=22)
    firing = nightly.next_night()
    path = f"/v1/schedules/nightly/firings/{firing['id']}"
    submitted = ask(nightly, path)
    etag = submitted.headers["etag"]
    assert ask(nightly, f"{path}?wait=0.2", etag).status_code == 304
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(ask, nightly, f"{path}?wait=60", etag)
        nightly.train()
        promoted = waiting.result(timeout=30)
    assert (promoted.status_code, promoted.json()["state"]) == (200, "promoted")
    assert ask(nightly, f"{path}?wait=60", promoted.headers["etag"]).status_code == 304  # at once: it stays so


def test_whoever_waits_for_an_alias_hears_of_its_change_and_of_its_end(nightly: Nights) -> None:
    path = f"/v1/aliases/{PROD}"
    etag = ask(nightly, path).headers["etag"]
    assert ask(nightly, f"{path}?wait=0.2", etag).status_code == 304
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(ask, nightly, f"{path}?wait=60", etag)
        nightly.plane.request("PUT", path, json={"model": "tiny-llama"}).raise_for_status()
        changed = waiting.result(timeout=30)
        assert (changed.status_code, changed.json()["model"]) == (200, "tiny-llama")
        waiting = threads.submit(ask, nightly, f"{path}?wait=60", changed.headers["etag"])
        nightly.plane.request("DELETE", path).raise_for_status()
        assert (waiting.result(timeout=30).status_code, waiting.result().json()["error"]["code"]) == (
            404,
            "alias_not_found",
        )
