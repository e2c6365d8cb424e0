"""Patience with a service that restarts, and no patience where a repeat could do harm."""

from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests.answers import body, event, job
from tunesmith.cli.client import Client, ServiceError, Unreachable
from tunesmith.cli.connection import Connection, NotConnected

FIRST = Connection(base_url="http://first/v1", api_key="key-1")
SECOND = Connection(base_url="http://second/v1", api_key="key-2")
JOB = job()


def client_of(
    answer: Callable[[httpx2.Request], httpx2.Response], *, find: Callable[[], Connection] = lambda: FIRST
) -> Client:
    return Client(find=find, sleep=lambda _: None, transport=httpx2.MockTransport(answer))


def test_a_get_is_repeated_until_the_service_is_back() -> None:
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(503) if len(seen) < 3 else httpx2.Response(200, json=body(JOB))

    with client_of(answer) as client:
        assert client.job("ftjob-1") == JOB
    assert len(seen) == 3


def test_a_service_that_moved_is_found_again() -> None:
    connections = iter([FIRST, SECOND])

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.host == "first":
            raise httpx2.ConnectError("refused")
        assert request.headers["authorization"] == "Bearer key-2"
        return httpx2.Response(200, json=body(JOB))

    with client_of(answer, find=lambda: next(connections)) as client:
        assert client.job("ftjob-1") == JOB


def test_a_connection_file_that_is_away_for_a_moment_is_no_end() -> None:
    looks = 0

    def find() -> Connection:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise NotConnected("away")
        return FIRST if looks == 1 else SECOND

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.host == "first":
            raise httpx2.ConnectError("refused")
        return httpx2.Response(200, json=body(JOB))

    with client_of(answer, find=find) as client:
        assert client.job("ftjob-1") == JOB


def test_what_may_have_been_done_is_not_done_again() -> None:
    seen = 0

    def answer(_: httpx2.Request) -> httpx2.Response:
        nonlocal seen
        seen += 1
        raise httpx2.ReadTimeout("too slow")

    with client_of(answer) as client, pytest.raises(Unreachable):
        client.act_on_job("ftjob-1", "cancel")
    assert seen == 1


def test_a_service_that_was_killed_is_said_to_be_gone_with_the_command_that_starts_it(tmp_path: Path) -> None:
    killed = Connection(base_url="http://127.0.0.1:8100/v1", api_key="key", data_dir=tmp_path)

    def answer(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("[Errno 111] Connection refused")

    with client_of(answer, find=lambda: killed) as client, pytest.raises(Unreachable, match="is gone") as caught:
        client.list_models()
    assert f"tunesmith up --data-dir {tmp_path}" in str(caught.value.hint)


def test_a_create_is_repeated_under_one_key() -> None:
    keys: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        keys.append(request.headers["idempotency-key"])
        if len(keys) == 1:
            raise httpx2.ReadTimeout("too slow")
        return httpx2.Response(200, json=body(JOB))

    with client_of(answer) as client:
        assert client.create_job({"model": "m"}, idempotency_key="nightly") == JOB
    assert keys == ["nightly", "nightly"]


def test_an_error_object_becomes_an_error_with_all_it_says() -> None:
    body = {"error": {"message": "no", "code": "invalid_value", "param": "seed", "hint": "use 0 or more"}}
    answer = httpx2.Response(400, json=body, headers={"x-request-id": "req-1"})
    with client_of(lambda _: answer) as client, pytest.raises(ServiceError) as caught:
        client.job("ftjob-1")
    error = caught.value
    assert (error.code, error.param, error.hint) == ("invalid_value", "seed", "use 0 or more")
    assert (error.http_status, error.request_id) == (400, "req-1")


def test_a_code_of_a_newer_service_is_kept() -> None:
    answer = httpx2.Response(400, json={"error": {"message": "no", "code": "of_next_year"}})
    with client_of(lambda _: answer) as client, pytest.raises(ServiceError) as caught:
        client.job("ftjob-1")
    assert caught.value.code == "of_next_year"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"detail": "x"}'])
def test_an_error_of_another_shape_is_still_an_error(body: bytes) -> None:
    with client_of(lambda _: httpx2.Response(418, content=body)) as client, pytest.raises(ServiceError) as caught:
        client.job("ftjob-1")
    assert "418" in caught.value.message


def test_a_page_that_is_not_json_is_no_service() -> None:
    with client_of(lambda _: httpx2.Response(200, text="<html>")) as client, pytest.raises(ServiceError, match="JSON"):
        client.job("ftjob-1")


def test_an_answer_without_what_it_should_have_names_the_field() -> None:
    incomplete = {name: value for name, value in body(JOB).items() if name != "seed"}
    with (
        client_of(lambda _: httpx2.Response(200, json=incomplete)) as client,
        pytest.raises(ServiceError, match="seed"),
    ):
        client.job("ftjob-1")


def test_what_a_newer_service_adds_is_kept_for_whoever_prints_it() -> None:
    newer = body(JOB) | {"added_later": {"deep": [1]}}
    newer["tunesmith"]["also_added"] = 2
    with client_of(lambda _: httpx2.Response(200, json=newer)) as client:
        assert body(client.job("ftjob-1")) == newer


def test_an_id_cannot_become_another_path() -> None:
    paths: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        paths.append(request.url.raw_path.decode())
        return httpx2.Response(200, json=body(JOB))

    with client_of(answer) as client:
        client.job("../../models")
    assert paths == ["/v1/fine_tuning/jobs/..%2F..%2Fmodels"]


def test_events_are_read_back_to_the_last_known_one_and_told_in_order() -> None:
    pages = {None: ["e5", "e4"], "e4": ["e3", "e2"], "e2": ["e1"]}
    asked: list[str | None] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        after = request.url.params.get("after")
        asked.append(after)
        names = pages[after]
        ends = {"first_id": names[0], "last_id": names[-1]}
        data = [body(event(name)) for name in names]
        return httpx2.Response(200, json={"object": "list", "data": data, "has_more": after != "e2", **ends})

    with client_of(answer) as client:
        everything = client.events_since("ftjob-1")
        fresh = client.events_since("ftjob-1", seen=frozenset({"e1", "e2", "e3"}))
    assert [line.id for line in everything] == ["e1", "e2", "e3", "e4", "e5"]
    assert [line.id for line in fresh] == ["e4", "e5"]
    assert asked == [None, "e4", "e2", None, "e4"]
