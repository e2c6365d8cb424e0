"""A program that speaks an engine's routes and has no model: its answers name the bytes of the base and the adapter.

Words in the last message tell it how to behave: `slowly 40` streams forty pieces with pauses, `crash` ends it in the
middle of an answer, `forget` drops all adapters, `try CODE` says what became of a Python expression.
"""

import argparse
import asyncio
import hashlib
import json
import os
import re
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tunesmith.tuning.values.json_objects import Json

PAUSE_SECONDS = 0.03


def in_place_of_vllm(folder: Path) -> Path:
    """A folder for PATH in which this program is called `vllm`."""
    folder.mkdir(exist_ok=True)
    program = folder / "vllm"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__)} "$@"\n')
    program.chmod(0o755)
    return folder


def fingerprint(folder: Path) -> str:
    """What it calls a set of weights: the beginning of their hash."""
    (weights,) = sorted(folder.glob("*model.safetensors"))
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:12]


class StandIn:
    """One engine with a base."""

    def __init__(self, folder: Path, *, name: str, key: str) -> None:
        self._base, self._name, self._key = fingerprint(folder), name, key
        self._adapters: dict[str, str] = {}
        self.application = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/v1/load_lora_adapter", self._load, methods=["POST"]),
                Route("/v1/unload_lora_adapter", self._unload, methods=["POST"]),
            ]
        )

    async def _health(self, _request: Request) -> Response:
        return Response()

    async def _models(self, request: Request) -> Response:
        if refusal := self._refuse(request):
            return refusal
        return JSONResponse({"object": "list", "data": [{"id": name} for name in (self._name, *self._adapters)]})

    async def _load(self, request: Request) -> Response:
        asked = await request.json()
        folder = Path(asked["lora_path"])
        made_for = json.loads((folder / "adapter_config.json").read_text()).get("made_for", self._base)
        if made_for != self._base:
            return _error(400, "adapter_of_another_base", f"made for {made_for}, here is {self._base}")
        self._adapters[asked["lora_name"]] = fingerprint(folder)
        return Response()

    async def _unload(self, request: Request) -> Response:
        self._adapters.pop((await request.json())["lora_name"], None)
        return Response()

    async def _chat(self, request: Request) -> Response:
        asked = await request.json()
        return await self._answer(request, asked, said=str(asked["messages"][-1]["content"]), is_chat=True)

    async def _complete(self, request: Request) -> Response:
        asked = await request.json()
        return await self._answer(request, asked, said=str(asked["prompt"]), is_chat=False)

    async def _answer(self, request: Request, asked: Json, *, said: str, is_chat: bool) -> Response:
        if refusal := self._refuse(request):
            return refusal
        name = asked["model"]
        if name != self._name and name not in self._adapters:
            return _error(404, "model_not_found", f"no {name}")
        if "too long" in said:
            return _error(400, "context_length_exceeded", "the prompt is longer than the context", param="messages")
        if "forget" in said:
            self._adapters.clear()
            said = "forgot"
        if said.startswith("try "):
            said = _tried(said.removeprefix("try "))
        text = f"base {self._base} adapter {self._adapters.get(name, 'none')} said {said}"
        if asked.get("stream"):
            wants_usage = bool((asked.get("stream_options") or {}).get("include_usage"))
            events = _events(name, text, said=said, is_chat=is_chat, wants_usage=wants_usage)
            return StreamingResponse(events, media_type="text/event-stream")
        if "crash" in said:
            os._exit(3)
        if slowly := re.search(r"slowly (\d+)", said):
            await asyncio.sleep(int(slowly[1]) * PAUSE_SECONDS)
        choice: Json = {"index": 0, "finish_reason": "stop"}
        choice |= {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
        kind = "chat.completion" if is_chat else "text_completion"
        return JSONResponse({"id": "x", "object": kind, "model": name, "choices": [choice], "usage": _USAGE})

    def _refuse(self, request: Request) -> Response | None:
        if request.headers.get("authorization") == f"Bearer {self._key}":
            return None
        return _error(401, "invalid_api_key", "wrong key")


_USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


async def _events(name: str, text: str, *, said: str, is_chat: bool, wants_usage: bool) -> AsyncIterator[bytes]:
    slowly = re.search(r"slowly (\d+)", said)
    pieces = [f"{word} " for word in text.split(" ")] + [f"piece {n} " for n in range(int(slowly[1]) if slowly else 0)]
    for number, piece in enumerate(pieces):
        if slowly:
            await asyncio.sleep(PAUSE_SECONDS)
        if "crash" in said and number == 2:
            await asyncio.sleep(0.2)
            os._exit(3)
        part: Json = {"delta": {"content": piece}} if is_chat else {"text": piece}
        yield _event({"model": name, "choices": [{"index": 0, "finish_reason": None, **part}]})
    yield _event({"model": name, "choices": [{"index": 0, "finish_reason": "stop", "delta": {}, "text": ""}]})
    if wants_usage:
        yield _event({"model": name, "choices": [], "usage": _USAGE})
    yield b"data: [DONE]\n\n"


def _tried(expression: str) -> str:
    try:
        return f"DONE {eval(expression)}"  # noqa: S307 - what a model that broke out of its engine could run
    except OSError as error:
        return f"REFUSED {type(error).__name__}"


def _event(value: Json) -> bytes:
    return f"data: {json.dumps({'id': 'x', **value})}\n\n".encode()


def _error(status: int, code: str, message: str, *, param: str | None = None) -> Response:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return JSONResponse({"error": error}, status_code=status)


def main() -> None:
    """As our own engine is started, and as vLLM's `serve` is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs="*")
    parser.add_argument("--model")
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--listener", type=int)
    found, _ = parser.parse_known_args()
    folder = Path(found.model or found.words[1])
    if (folder / "unloadable").exists():
        raise SystemExit("this model cannot be loaded")
    key = os.environ.get("TUNESMITH_ENGINE_KEY") or os.environ["VLLM_API_KEY"]
    engine = StandIn(folder, name=found.served_model_name, key=key)
    config = uvicorn.Config(engine.application, host=found.host, port=found.port, log_level="warning")
    sockets = None if found.listener is None else [socket.socket(fileno=found.listener)]
    uvicorn.Server(config).run(sockets=sockets)


if __name__ == "__main__":
    main()
