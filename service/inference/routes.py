"""`/v1/chat/completions` and `/v1/completions`: OpenAI's clients ask models, base or tuned."""

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeVar

import structlog
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from tunesmith.service.inference import answers
from tunesmith.service.inference.gateways import Begun, Gateways
from tunesmith.service.inference.generate import Question, ask
from tunesmith.service.inference.patient_stream import PatientStream
from tunesmith.service.inference.schemas import ChatCompletionCreate, CompletionCreate, Sampling
from tunesmith.service.inference.told_waiting import ToldWaiting
from tunesmith.service.inference.usage import UsageCounter
from tunesmith.service.inference.used import Used
from tunesmith.service.settings import Settings
from tunesmith.service.web.auth import Caller, MemberKey
from tunesmith.service.web.bodies import MOST_LISTED_ELEMENTS, documented, json_body
from tunesmith.service.web.dependencies import DatabaseDep, SettingsDep
from tunesmith.service.web.errors import error_response
from tunesmith.service.web.openapi import error_response as documented_error
from tunesmith.tuning.errors import TunesmithError
from tunesmith.tuning.inference_messages import TELL_WAITING, GenerationPath

log = structlog.get_logger(__name__)
router = APIRouter(prefix="/v1", tags=["inference"])
Made = TypeVar("Made")

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer, as OpenAI's; with `stream`, its chunks as server-sent events up to `[DONE]`. "
        "`x-tunesmith-served-by` names engine and worker. An answer that breaks off ends with an event of an `error`.",
        "content": {"application/json": {"schema": {"type": "object"}}},
    },
    **documented_error(404, "No such model, or not one of this project."),
}
_NOBODY_WAITS = 499  # as nginx logs it; nobody sees it


async def _gateways(request: Request) -> Gateways:
    return request.app.state.gateways  # type: ignore[no-any-return]


async def _usage(request: Request) -> UsageCounter:
    return request.app.state.usage  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Around:
    """What an answer is made with."""

    request: Request
    caller: Caller
    database: DatabaseDep
    gateways: Annotated[Gateways, Depends(_gateways)]
    usage: Annotated[UsageCounter, Depends(_usage)]
    settings: Settings


async def _around(
    request: Request,
    *,
    caller: MemberKey,
    database: DatabaseDep,
    gateways: Annotated[Gateways, Depends(_gateways)],
    usage: Annotated[UsageCounter, Depends(_usage)],
    settings: SettingsDep,
) -> Around:
    return Around(request, caller, database, gateways, usage, settings)


AroundDep = Annotated[Around, Depends(_around)]


def _body(model: type[Sampling]) -> Any:
    return json_body(model, most_elements=MOST_LISTED_ELEMENTS)


@router.post(
    "/chat/completions", response_model=None, responses=_ANSWERS, openapi_extra=documented(ChatCompletionCreate)
)
async def create_chat_completion(
    around: AroundDep, asked: Annotated[ChatCompletionCreate, _body(ChatCompletionCreate)]
) -> Response:
    """Have a model answer in a conversation."""
    return await _answer(around, asked, path="chat/completions")


@router.post("/completions", response_model=None, responses=_ANSWERS, openapi_extra=documented(CompletionCreate))
async def create_completion(around: AroundDep, asked: Annotated[CompletionCreate, _body(CompletionCreate)]) -> Response:
    """Have a model continue a text."""
    return await _answer(around, asked, path="completions")


async def _answer(around: Around, asked: Sampling, *, path: GenerationPath) -> Response:
    asked.check()
    model = around.settings.model_meant_by(asked.model)
    question = Question(model=model, project=around.caller.project, path=path, body=asked.for_engine())
    silence = around.settings.worker_silence
    story = _Story(around, asked.model)

    def go_on(begun: Begun) -> AsyncGenerator[bytes, None]:
        return answers.events(
            begun, model=asked.model, wants_usage=asked.wants_usage, count=lambda used: story.end(begun, used)
        )

    stream = partial(PatientStream, reader_seconds=around.settings.inference_reader_seconds)
    asking = partial(ask, around.database, around.gateways, question, silence=silence)
    if asked.stream and TELL_WAITING in around.request.headers:
        told = ToldWaiting(lambda tell: asking(tell=tell))
        begun = await _unless_gone(around.request, told.first())
        if isinstance(begun, str):
            return stream(told.events(begun, go_on=go_on), headers={"cache-control": "no-store"})
    else:
        begun = await _unless_gone(around.request, asking())
    if begun is None:
        return Response(status_code=_NOBODY_WAITS)
    headers = _headers(begun)
    if begun.head.content_type.startswith("text/event-stream"):
        return stream(go_on(begun), headers=headers)
    return await _whole(begun, asked.model, story=story, headers=headers)


async def _whole(begun: Begun, model: str, *, story: "_Story", headers: dict[str, str]) -> Response:
    try:
        answer = await answers.whole(begun, model=model)
    except TunesmithError as refusal:
        story.end(begun, Used(), status=refusal.http_status)
        response = error_response(refusal)
        response.headers.update(headers)
        return response
    story.end(begun, answers.used(answer))
    return JSONResponse(answer, headers=headers)


class _Story:
    """One line of the log for each answer, and its tokens for the project."""

    def __init__(self, around: Around, model: str) -> None:
        self._around, self._model = around, model
        self._started = time.perf_counter()

    def end(self, begun: Begun, used: Used, *, status: int = 200) -> None:
        """The answer has ended."""
        if used.requests:
            self._around.usage.add(self._around.caller.project, used)
        log.info(
            "inference.answered",
            model=self._model,
            served_by=begun.served_by,
            status=status,
            prompt_tokens=used.prompt_tokens,
            completion_tokens=used.completion_tokens,
            milliseconds=round((time.perf_counter() - self._started) * 1000, 1),
        )


def _headers(begun: Begun) -> dict[str, str]:
    headers = {"x-tunesmith-served-by": begun.served_by, "cache-control": "no-store"}
    if begun.head.waited_for:
        headers["x-tunesmith-waited-for"] = begun.head.waited_for.encode("ascii", "replace").decode()
    return headers


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Made]) -> Made | None:
    """The result, or None when the client goes away before: then the work is given up, and an engine is free of it."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue
