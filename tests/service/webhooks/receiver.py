"""A receiver of webhooks that behaves as a test tells it to, and the courier that sends to it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from tests.control_plane import ControlPlane
from tunesmith.service.database.transactions import Database, now
from tunesmith.service.database.webhook_tables import WebhookEndpoint
from tunesmith.service.webhooks.courier import Courier
from tunesmith.service.webhooks.endpoints import create
from tunesmith.service.webhooks.guard import Guard
from tunesmith.service.webhooks.sending import Sender
from tunesmith.tuning.api.requests.webhooks import EndpointCreate
from tunesmith.tuning.values.json_objects import Json
from tunesmith.tuning.words import WebhookEventType

HERE = Guard(allowed=[ip_network("127.0.0.0/8")])
Behaviour = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Receiver:
    """What came, and how to answer the next."""

    url: str
    behaviour: Behaviour
    came: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _body in self.came]


def answer(status: int, body: bytes = b"thanks", **headers: str) -> Behaviour:
    def behave(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("content-length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return behave


@contextmanager
def receiving(behaviour: Behaviour = answer(200)) -> Iterator[Receiver]:  # noqa: B008
    """A receiver at a port of its own, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.came.append(({name.lower(): value for name, value in self.headers.items()}, body))
            try:
                receiver.behaviour(self)
            except OSError:
                self.close_connection = True

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        receiver = Receiver(f"http://127.0.0.1:{server.server_port}/hooks", behaviour)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield receiver
        finally:  # else a test that fails leaves a thread that keeps its whole run from ending
            server.shutdown()
            thread.join()


def listen(plane: ControlPlane, url: str, *event_types: WebhookEventType, project: str = "acme") -> WebhookEndpoint:
    """An endpoint of the project, at an address that the API itself would refuse."""
    request = EndpointCreate(name="receiver", url=url, event_types=list(event_types or WebhookEventType))
    return plane.run(lambda database: create(database, request, project=project, guard=HERE))


def courier_of(
    database: Database, *, later: timedelta = timedelta(), guard: Guard = HERE, seconds: float = 5, jitter: float = 0.5
) -> Courier:
    """One whose clock is that much later."""

    async def clock(session: AsyncSession) -> datetime:
        return await now(session) + later

    sender = Sender(guard, timeout_seconds=seconds)
    return Courier(database, sender, every_seconds=0.05, clock=clock, jitter=lambda: jitter)


def send(plane: ControlPlane, **options: Any) -> int:
    """One sweep; returns how many tries were made."""
    return plane.run(lambda database: courier_of(database, **options).sweep())


def cancelled(plane: ControlPlane, *, key: str = "member") -> str:
    """A job that has ended, in the cheapest way."""
    job_id = str(plane.create_job(key=key)["id"])
    assert plane.request("POST", f"/v1/fine_tuning/jobs/{job_id}/cancel", key=key).status_code == 200
    return job_id


def deliveries(plane: ControlPlane, endpoint: WebhookEndpoint) -> list[Json]:
    """As the API shows them, newest first."""
    response = plane.request("GET", f"/v1/webhook_endpoints/{endpoint.id}/deliveries")
    assert response.status_code == 200, response.text
    return list(response.json()["data"])


def shown(plane: ControlPlane, endpoint: WebhookEndpoint) -> Json:
    return dict(plane.request("GET", f"/v1/webhook_endpoints/{endpoint.id}").json())
