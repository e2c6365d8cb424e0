"""The routes. All but /health want the engine's key."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tunesmith.tuning.codes import ErrorCode
from tunesmith.worker.inference.engine.refusal import Refusal
from tunesmith.worker.inference.engine.web import requests
from tunesmith.worker.inference.engine.web.answers import CHAT, TEXT, Json, error_body
from tunesmith.worker.inference.engine.web.conversation import Conversation, Served
from tunesmith.worker.inference.engine.web.requests import ChatAsked, CompletionAsked, LoadAsked, UnloadAsked

MOST_BODY_BYTES = 16 * 1024**2
T = TypeVar("T")
B = TypeVar("B", bound=BaseModel)


def create_app(served: Served, *, key: str) -> ASGIApp:
    """The engine's routes; `key` is the bearer token that they want."""
    routes = Routes(served)
    app = Starlette(
        routes=[
            Route("/health", routes.health),
            Route("/v1/models", routes.models),
            Route("/v1/chat/completions", routes.chat, methods=["POST"]),
            Route("/v1/completions", routes.complete, methods=["POST"]),
            Route("/v1/load_lora_adapter", routes.load, methods=["POST"]),
            Route("/v1/unload_lora_adapter", routes.unload, methods=["POST"]),
        ],
        exception_handlers={Refusal: _refused, ClientDisconnect: _gone},
    )
    return _Keyed(app, key=key)


class Routes:
    """What each route does with what is served."""

    def __init__(self, served: Served) -> None:
        self._served = served

    async def health(self, _: Request) -> Response:
        """200 while requests are taken, and what is going on."""
        engine = self._served.engine
        status = "draining" if engine.is_draining else "ok"
        return JSONResponse({"status": status, **engine.counts()}, status_code=503 if engine.is_draining else 200)

    async def models(self, _: Request) -> Response:
        """The base, and every adapter by its name."""
        served = self._served
        base = {"object": "model", "created": 0, "owned_by": "tunesmith", "max_model_len": served.engine.context_tokens}
        shown: list[Json] = [{"id": served.name, **base, "parent": None}]
        shown += [{"id": name, **base, "parent": served.name} for name in served.engine.residents.names()]
        return JSONResponse({"object": "list", "data": shown})

    async def chat(self, request: Request) -> Response:
        """Answers to messages."""
        asked = await _read(request, ChatAsked)
        served = self._served
        tools = None if asked.tool_choice == "none" else asked.tools
        folder = served.adapter_folder(asked.model)
        prompt, ends = await served.prompts.of_chat(asked.messages, tools=tools, adapter=folder)
        top_logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
        conversation = Conversation(
            served,
            asked,
            CHAT,
            sampling=asked.sampling(vocabulary=served.vocabulary, top_logprobs=top_logprobs),
            shows_logprobs=bool(asked.logprobs),
            tools=_names(tools),
        )
        bound = "max_completion_tokens" if asked.max_completion_tokens else "max_tokens"
        most_tokens = asked.max_completion_tokens or asked.max_tokens
        conversation.begin([prompt], most_tokens=most_tokens, ends=ends, param="messages", bound=bound)
        return await _answer(request, conversation, is_stream=bool(asked.stream))

    async def complete(self, request: Request) -> Response:
        """Texts that go on."""
        asked = await _read(request, CompletionAsked)
        served = self._served
        served.adapter_folder(asked.model)
        prompts = await asyncio.to_thread(lambda: [_tokens(served, prompt) for prompt in asked.prompts])
        conversation = Conversation(
            served,
            asked,
            TEXT,
            sampling=asked.sampling(vocabulary=served.vocabulary, top_logprobs=asked.logprobs),
            shows_logprobs=asked.logprobs is not None,
        )
        conversation.begin(prompts, most_tokens=asked.max_tokens, ends=served.prompts.ends, param="prompt")
        return await _answer(request, conversation, is_stream=bool(asked.stream))

    async def load(self, request: Request) -> Response:
        """Make an adapter's folder answer under a name."""
        asked = await _read(request, LoadAsked)
        if asked.lora_name == self._served.name:
            raise Refusal(f"{asked.lora_name!r} is the name of the base. Take another.", param="lora_name")
        folder = Path(asked.lora_path)
        await asyncio.to_thread(self._served.engine.residents.load, asked.lora_name, folder, sha256=asked.sha256)
        self._served.prompts.learn_template(folder)
        return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' added successfully.")

    async def unload(self, request: Request) -> Response:
        """Forget a name."""
        asked = await _read(request, UnloadAsked)
        self._served.engine.residents.unload(asked.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' removed successfully.")


class EventStream(Response):
    """Events until there are no more or the client is gone, whichever is first."""

    media_type = "text/event-stream"

    def __init__(self, first: bytes, rest: AsyncIterator[bytes], *, ended: Callable[[], None]) -> None:
        self.status_code, self.background = 200, None
        self._first, self._rest, self._ended = first, rest, ended
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await _unless_gone(receive, self._pump(send))
        except (ClientDisconnect, OSError):
            pass
        finally:
            self._ended()

    async def _pump(self, send: Send) -> None:
        await send({"type": "http.response.body", "body": self._first, "more_body": True})
        async for event in self._rest:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Keyed:
    """Lets only requests with the key through."""

    def __init__(self, app: ASGIApp, *, key: str) -> None:
        self._app, self._expected = app, f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/health":
            given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            if not hmac.compare_digest(given, self._expected):
                refusal = Refusal("This key is not the engine's.", code=ErrorCode.INVALID_API_KEY, http_status=401)
                await _shown(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _answer(request: Request, conversation: Conversation, *, is_stream: bool) -> Response:
    """The status is that of the first thing an answer has to say: an error at its beginning is none of a stream."""
    is_handed_over = False
    try:
        if not is_stream:
            return JSONResponse(await _unless_gone(request.receive, conversation.whole()))
        events = conversation.events()
        first = await _unless_gone(request.receive, _first(events))
        is_handed_over = True
        return EventStream(first, events, ended=conversation.leave)
    finally:
        if not is_handed_over:
            conversation.leave()


async def _first(events: AsyncIterator[bytes]) -> bytes:
    return await anext(events)


async def _unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """Do it while the client is there.

    Raises:
        ClientDisconnect: it went away.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone_away(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone_away(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read(request: Request, kind: type[B]) -> B:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BODY_BYTES:
            raise Refusal(
                f"The body has more than {MOST_BODY_BYTES:,} bytes.",
                code=ErrorCode.REQUEST_TOO_LARGE,
                http_status=413,
            )
    return requests.read(bytes(body), kind)


def _names(tools: list[Json] | None) -> frozenset[str]:
    """Of the functions that may be called."""
    functions = [tool.get("function", tool) for tool in tools or ()]
    return frozenset(
        str(function["name"]) for function in functions if isinstance(function, dict) and "name" in function
    )


def _tokens(served: Served, prompt: str | list[int]) -> tuple[int, ...]:
    return served.prompts.of_text(prompt) if isinstance(prompt, str) else tuple(prompt)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)  # noqa: S101 - for the type checker
    return _shown(error)


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


def _shown(refusal: Refusal) -> Response:
    seconds = refusal.retry_after_seconds
    headers = {} if seconds is None else {"retry-after": str(seconds)}
    return JSONResponse(error_body(refusal), status_code=refusal.http_status, headers=headers)
