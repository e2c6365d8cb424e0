"""No caller takes the service from the others: slow lines end, keys have so many places, names are checked."""

import asyncio
import re
import socket
from collections.abc import Awaitable
from contextlib import closing
from typing import Any

import httpx2
import pytest
import uvicorn
from uvicorn.server import ServerState

from tests.control_plane import ControlPlane
from tests.service.limits.application import ask, connected, serving
from tunesmith.service.app import create_app
from tunesmith.service.routes import Routes
from tunesmith.service.serve import shared_socket
from tunesmith.service.settings import Settings
from tunesmith.service.web.connections.impatient import ImpatientConnection
from tunesmith.service.web.limiter import Limiter, TooMany

JOBS = "/v1/fine_tuning/jobs"


def test_a_body_that_does_not_come_is_answered_with_408(plane: ControlPlane, settings: Settings) -> None:
    with serving(settings.model_copy(update={"patience_seconds": 0.3}), head_seconds=1.0) as url:
        head = f"POST {JOBS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {plane.keys['member']}\r\n"
        with closing(connected(url)) as line:
            line.sendall(f'{head}content-length: 1000\r\n\r\n{{"model"'.encode())
            answer = b""
            while b"request_timeout" not in answer:  # head and body may come apart
                part = line.recv(4096)
                assert part, answer
                answer += part
            assert answer.startswith(b"HTTP/1.1 408")
            line.sendall(b"x")
            assert line.recv(4096) == b"", "the connection stays open"


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nhost", b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"])
def test_a_connection_without_a_request_is_closed(settings: Settings, sent: bytes) -> None:
    with serving(settings, head_seconds=1.0) as url, closing(connected(url)) as line:
        line.sendall(sent)
        received = b""
        while part := line.recv(4096):
            received += part
        assert (b"200 OK" in received) == sent.endswith(b"\r\n\r\n")


def test_a_head_without_end_is_refused_when_it_is_too_large(settings: Settings) -> None:
    with serving(settings) as url, closing(connected(url)) as line:
        head = b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-long: "
        line.sendall(head.ljust(64 * 1024 + 1, b"a"))
        assert line.recv(4096).startswith(b"HTTP/1.1 431 ")


class Wire(asyncio.Transport):
    """What a connection writes, where a test says in which pieces it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.is_closed = b"", False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def test_the_end_of_a_long_body_is_no_part_of_the_next_head() -> None:
    async def refuse(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async def read(*pieces: bytes) -> Wire:
        wire = Wire()
        config = uvicorn.Config(refuse, log_config=None)
        connection = ImpatientConnection(config, ServerState(), {})
        connection.connection_made(wire)
        for piece in pieces:
            connection.data_received(piece)
            await asyncio.sleep(0.01)
        connection.connection_lost(None)
        return wire

    body = b"x" * (200 * 1024)
    post = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    begun = b"GET / HTTP/1.1\r\nx-long: "
    assert b"431" not in asyncio.run(read(post, body + begun, b"a" * 1000)).written
    assert b"431" in asyncio.run(read(post, body + begun, b"a" * (64 * 1024 + 1))).written


def test_requests_that_come_at_once_are_answered_in_turn(settings: Settings) -> None:
    with serving(settings, head_seconds=1.0) as url, closing(connected(url)) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n")
        received = b""
        while part := line.recv(4096):
            received += part
        assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"404"]


def test_an_answer_that_takes_longer_than_a_head_may_is_given(plane: ControlPlane, settings: Settings) -> None:
    with serving(settings, head_seconds=1.0) as url:
        plane.add_model()
        path = f"{url}{JOBS}/{plane.create_job()['id']}"
        headers = {"authorization": f"Bearer {plane.keys['member']}"}
        etag = httpx2.get(path, headers=headers, verify=False).headers["etag"]
        waiting = httpx2.get(f"{path}?wait=1.5", headers={**headers, "if-none-match": etag}, timeout=10, verify=False)
        assert waiting.status_code == 304


def test_a_caller_has_so_many_places_and_gets_them_back() -> None:
    limiter = Limiter(2, what="requests")
    with limiter.hold("one"), limiter.hold("one"), limiter.hold("other"), pytest.raises(TooMany), limiter.hold("one"):
        pass
    with limiter.hold("one"), limiter.hold("one"):
        pass


def test_an_answer_tells_how_many_more_requests_the_key_may_have_open(plane: ControlPlane, settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"max_requests_per_key": 5, "max_waits_per_key": 7}))
    with_wait, plain, health = asyncio.run(
        ask(
            app,
            ("GET", "/v1/fine_tuning/jobs/ftjob-none?wait=1", {}),
            ("GET", "/v1/models", {}),
            ("GET", "/healthz", {}),
            key=plane.keys["member"],
        )
    )
    told = ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests")
    assert [plain.headers[name] for name in told] == ["5", "4"]
    assert [with_wait.headers[name] for name in told] == ["7", "6"]
    assert not any(name in health.headers for name in told)


def test_too_many_requests_of_one_key_are_429_and_other_keys_do_not_notice(
    plane: ControlPlane, settings: Settings
) -> None:
    app = create_app(settings.model_copy(update={"max_requests_per_key": 1, "max_waits_per_key": 1}))
    plane.add_model()
    path = f"{JOBS}/{plane.create_job()['id']}"

    async def run() -> list[httpx2.Response]:
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:

            def get(path: str, key: str, **headers: str) -> Awaitable[httpx2.Response]:
                return client.get(path, headers={"authorization": f"Bearer {plane.keys[key]}", **headers})

            etag = (await get(path, "member")).headers["etag"]
            waiting = asyncio.ensure_future(get(f"{path}?wait=1", "member", **{"if-none-match": etag}))
            await asyncio.sleep(0)
            second, admin, plain = await asyncio.gather(
                get(f"{path}?wait=1", "member"), get(f"{path}?wait=0.1", "admin"), get(path, "member")
            )
            answers = [second, admin, plain, await waiting]
        await app.state.database.close()
        return answers

    second, admin, plain, waited = asyncio.run(run())
    assert (second.status_code, second.json()["error"]["code"]) == (429, "too_many_requests")
    assert second.json()["error"]["type"] == "rate_limit_error"
    assert second.headers["retry-after"] == "1"
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in (second, plain)] == ["0", "0"]
    assert second.headers["x-ratelimit-limit-requests"] == "1"
    assert [admin.status_code, plain.status_code, waited.status_code] == [200, 200, 304]


def test_event_streams_take_no_places_of_other_requests(plane: ControlPlane, settings: Settings) -> None:
    plane.add_model()
    job = f"{JOBS}/{plane.create_job()['id']}"
    limited = settings.model_copy(update={"max_requests_per_key": 1, "max_waits_per_key": 2})
    headers = {"authorization": f"Bearer {plane.keys['member']}"}
    stream = {"headers": {"accept": "text/event-stream"}}
    with (
        serving(limited) as url,
        httpx2.Client(base_url=url, headers=headers) as client,
        client.stream("GET", f"{job}/events", **stream) as first,
        client.stream("GET", f"{job}/events?stream=true") as second,
        client.stream("GET", f"{job}/events", **stream) as third,
    ):
        assert [first.status_code, second.status_code, third.status_code] == [200, 200, 429]
        assert client.get(job, **stream).status_code == 200, "what streams nothing is no stream"


@pytest.mark.parametrize(
    ("host", "status"), [("localhost:8100", 401), ("[::1]:8100", 401), ("Tunes.example", 401), ("evil.example", 421)]
)
def test_only_allowed_names_are_answered(settings: Settings, host: str, status: int) -> None:
    app = create_app(Settings(**{**settings.model_dump(), "allowed_hosts": "localhost, ::1,tunes.example"}))
    (answer,) = asyncio.run(ask(app, ("GET", "/v1/models", {"headers": {"host": host}}), key=""))
    assert answer.status_code == status


def test_a_load_balancer_may_ask_for_the_health_by_address(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"allowed_hosts": ("tunes.example",)}))
    (answer,) = asyncio.run(ask(app, ("GET", "/healthz", {"headers": {"host": "10.0.0.7"}}), key=""))
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("routes", "answered", "unknown"),
    [
        (Routes.PUBLIC, "/v1/models", "/internal/claims"),
        (Routes.WORKERS, "/internal/claims", "/v1/models"),
    ],
)
def test_it_knows_its_own_routes_only(settings: Settings, routes: Routes, answered: str, unknown: str) -> None:
    app = create_app(settings, routes=routes)
    found, other, health = asyncio.run(
        ask(app, ("POST", answered, {}), ("POST", unknown, {}), ("GET", "/readyz", {}), key="nobody")
    )
    assert (found.status_code, other.status_code, health.status_code) == (401, 404, 200)
    assert ("TUNESMITH_URL" in other.text) == (routes is Routes.PUBLIC)


def test_processes_of_the_api_share_a_port_and_nobody_else_gets_it() -> None:
    with shared_socket("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with shared_socket("127.0.0.1", port) as second, socket.socket() as foreign:
            assert second.getsockname() == first.getsockname()
            with pytest.raises(OSError, match="in use"):
                foreign.bind(("127.0.0.1", port))
