"""Gateways that answer as a test tells them to, and a service that knows of them."""

import asyncio
import json
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.control_plane import ControlPlane, control_plane, limited, live_control_plane, plane
from tunesmith.tuning.inference_messages import InferenceHeartbeat, RegisterInferenceWorker
from tunesmith.tuning.values.json_objects import Json
from tunesmith.tuning.values.units import GIB

__all__ = ["control_plane", "limited", "live_control_plane", "plane"]
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
DONE = b"data: [DONE]\n\n"
HANG = "hang"
IMPATIENT_SECONDS = 1.5  # a busy machine is silent for a while too

Frame = bytes | float | str  # bytes to send, seconds to wait, or HANG


class StandInGateway:
    """`script` makes the frames of an answer; None hangs up in the middle, a whole Response is sent as it is."""

    def __init__(self) -> None:
        self.secret = secrets.token_hex(8)
        self.asked: list[Json] = []
        self.gone = threading.Event()
        self.script: Callable[[Json], list[Frame] | Response] = answer
        app = Starlette(routes=[Route("/generate", self._generate, methods=["POST"])])
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.01)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        self._server.force_exit = self._server.should_exit = True
        self._thread.join(10)

    async def _generate(self, request: Request) -> Response:
        if request.headers["authorization"] != f"Bearer {self.secret}":
            return JSONResponse({"error": {"code": "invalid_api_key"}}, status_code=401)
        asked = await request.json()
        self.asked.append(asked)
        made = self.script(asked)
        return made if isinstance(made, Response) else StreamingResponse(self._frames(made))

    async def _frames(self, frames: list[Frame]) -> AsyncIterator[bytes]:
        left = len(frames)
        try:
            for frame in frames:
                if isinstance(frame, bytes):
                    yield frame
                else:
                    await asyncio.sleep(3600 if isinstance(frame, str) else frame)
                left -= 1
        finally:
            if left:
                self.gone.set()


def line(**values: Any) -> bytes:
    return json.dumps(values).encode() + b"\n"


def event(**values: Any) -> bytes:
    return f"data: {json.dumps(values)}\n\n".encode()


def answer(asked: Json) -> list[Frame]:
    """What an engine says, which names the bytes that it was asked for."""
    model = asked["model"]
    text = " + ".join(files["files"][-1]["sha256"][:8] for files in (model["base"], model["adapter"]) if files)
    name = "adapter-x" if model["adapter"] else "base-x"
    if not asked["body"].get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "text": text, "finish_reason": "stop"}
        body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": name, "choices": [choice]}
        return [
            line(waiting="the base"),
            line(status=200, waited_for="0.1 s"),
            json.dumps({**body, "usage": USAGE}).encode(),
        ]
    pieces = [event(model=name, choices=[{"index": 0, "delta": {"content": f"{word} "}}]) for word in text.split()]
    last = [event(model=name, choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])]
    return [stream_head(), b": here\n\n", *pieces, *last, event(model=name, choices=[], usage=USAGE), DONE]


def stream_head() -> bytes:
    return line(status=200, content_type="text/event-stream")


def refusal(status: int, code: str, message: str = "No.", **more: Any) -> list[Frame]:
    error = {"error": {"message": message, "code": code, "param": None}}
    return [line(status=status, **more), json.dumps(error).encode()]


class InferenceSide:
    """What an inference worker says to the service."""

    def __init__(self, plane: ControlPlane, worker_id: str, gateway: StandInGateway, **facts: Any) -> None:
        self.plane, self.id, self.incarnation = plane, worker_id, secrets.token_hex(4)
        request = {
            "worker_id": worker_id,
            "incarnation": self.incarnation,
            "hostname": worker_id,
            "version": "0",
            "worker_class": "cpu",
            "engine": "tunesmith",
            "url": gateway.url,
            "secret": gateway.secret,
            "memory_bytes": 8 * GIB,
        }
        sent = RegisterInferenceWorker.model_validate({**request, **facts})
        response = plane.request("POST", "/internal/inference-workers", key="worker", content=sent.model_dump_json())
        assert response.status_code == 200, response.text

    def beat(self, **facts: Any) -> httpx2.Response:
        report = InferenceHeartbeat.model_validate({"incarnation": self.incarnation, "doing": "ready", **facts})
        path = f"/internal/inference-workers/{self.id}/heartbeat"
        return self.plane.request("POST", path, key="worker", content=report.model_dump_json())

    def blob(self, digest: str) -> httpx2.Response:
        return self.plane.request("GET", f"/internal/inference-workers/{self.id}/blobs/{digest}", key="worker")


@pytest.fixture
def gateway() -> Iterator[StandInGateway]:
    made = StandInGateway()
    yield made
    made.stop()


@pytest.fixture
def another_gateway() -> Iterator[StandInGateway]:
    made = StandInGateway()
    yield made
    made.stop()


@pytest.fixture
def inference(control_plane: ControlPlane, gateway: StandInGateway) -> InferenceSide:
    """One inference worker that is ready."""
    return InferenceSide(control_plane, "inference-1", gateway)


@pytest.fixture
def impatient(live_control_plane: ControlPlane) -> Iterator[None]:
    """A service that waits for a silent gateway, and a reader, for `IMPATIENT_SECONDS` only."""
    state = live_control_plane.app.state
    settings, timeout = state.settings, state.gateways._timeout
    state.settings = settings.model_copy(update={"inference_reader_seconds": IMPATIENT_SECONDS})
    state.gateways._timeout = httpx2.Timeout(IMPATIENT_SECONDS)
    made, state.gateways._made = state.gateways._made, None
    yield
    state.settings, state.gateways._timeout, state.gateways._made = settings, timeout, made


def ask(plane: ControlPlane, model: str = "tiny-llama", *, key: str = "member", **body: Any) -> httpx2.Response:
    asked = {"model": model, "messages": [{"role": "user", "content": "hello"}], **body}
    return plane.request("POST", "/v1/chat/completions", key=key, json=asked)


def events_of(response: httpx2.Response) -> list[Any]:
    lines = [text[6:] for text in response.text.split("\n") if text.startswith("data: ")]
    return [text if text == "[DONE]" else json.loads(text) for text in lines]
