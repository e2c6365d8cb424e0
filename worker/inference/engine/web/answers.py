"""Answers in OpenAI's shapes: whole, and as the events of a stream."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from tunesmith.worker.inference.engine.answering.outbox import Delta
from tunesmith.worker.inference.engine.answering.sampling import Drawn
from tunesmith.worker.inference.engine.answering.tool_calls import read_calls
from tunesmith.worker.inference.engine.refusal import Refusal

Json = dict[str, Any]
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 413: "invalid_request_error"}


@dataclass
class Choice:
    """What has come of one answer."""

    text: str = ""
    drawn: list[Drawn] = field(default_factory=list)
    finish_reason: str | None = None
    calls: list[Json] = field(default_factory=list)

    def add(self, delta: Delta) -> None:
        """The next step of it."""
        self.text += delta.text
        self.drawn.extend(delta.drawn)
        self.finish_reason = delta.finish_reason

    def read_calls(self, tools: Collection[str]) -> None:
        """What of its text, now whole, calls one of these tools. One that was cut off at a bound stays text."""
        if tools and self.finish_reason == "stop":
            self.text, self.calls = read_calls(self.text, tools=tools)
            self.finish_reason = "tool_calls" if self.calls else "stop"


@dataclass(frozen=True)
class Usage:
    """Tokens that a request cost; `cached` of its prompts were not computed again."""

    prompt: int
    completion: int
    cached: int

    def shown(self) -> Json:
        """As OpenAI's `usage`."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


@dataclass(frozen=True)
class Shape:
    """How one route shows its answers."""

    prefix: str
    whole: str
    chunk: str
    choice: Callable[[int, Choice, Json | None], Json]
    piece: Callable[[int, Delta, Json | None], Json]
    opening: Callable[[int], Json] | None
    logprobs: Callable[[Sequence[Drawn], Callable[[int], bytes], int], Json]


def _chat_choice(index: int, choice: Choice, logprobs: Json | None) -> Json:
    message: Json = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.calls:
        message |= {"content": choice.text or None, "tool_calls": choice.calls}
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish_reason}


def _chat_piece(index: int, delta: Delta, logprobs: Json | None) -> Json:
    said = {"content": delta.text} if delta.text or logprobs else {}
    return {"index": index, "delta": said, "logprobs": logprobs, "finish_reason": delta.finish_reason}


def chat_calls(index: int, choice: Choice, logprobs: Json | None) -> Json:
    """A whole answer that was held back for the calls in it, as one piece of a stream."""
    calls = [{"index": number, **call} for number, call in enumerate(choice.calls)]
    said: Json = ({"content": choice.text} if choice.text else {}) | ({"tool_calls": calls} if calls else {})
    return {"index": index, "delta": said, "logprobs": logprobs, "finish_reason": choice.finish_reason}


def _chat_opening(index: int) -> Json:
    delta = {"role": "assistant", "content": ""}
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def characters_in(written: bytes) -> int:
    """How many characters begin in it."""
    return sum(byte & 0xC0 != 0x80 for byte in written)


def _chat_logprobs(drawn: Sequence[Drawn], written: Callable[[int], bytes], _before: int) -> Json:
    def entry(token: int, logprob: float | None) -> Json:
        part = written(token)
        return {"token": part.decode(errors="backslashreplace"), "logprob": logprob, "bytes": list(part)}

    content = [
        {**entry(each.token, each.logprob), "top_logprobs": [entry(*likely) for likely in each.likeliest]}
        for each in drawn
    ]
    return {"content": content, "refusal": None}


def _text_choice(index: int, choice: Choice, logprobs: Json | None) -> Json:
    return {"index": index, "text": choice.text, "logprobs": logprobs, "finish_reason": choice.finish_reason}


def _text_piece(index: int, delta: Delta, logprobs: Json | None) -> Json:
    return {"index": index, "text": delta.text, "logprobs": logprobs, "finish_reason": delta.finish_reason}


def _text_logprobs(drawn: Sequence[Drawn], written: Callable[[int], bytes], before: int) -> Json:
    def show(token: int) -> str:
        """A part of a character by its bytes, as OpenAI does: two parts are not one."""
        try:
            return written(token).decode()
        except UnicodeDecodeError as error:
            return f"bytes:{error.object.decode(errors='backslashreplace')}"

    parts = [written(each.token) for each in drawn]
    offsets = list(accumulate(map(characters_in, parts), initial=before))[: len(parts)]
    return {
        "tokens": [show(each.token) for each in drawn],
        "token_logprobs": [each.logprob for each in drawn],
        "top_logprobs": [{show(token): logprob for token, logprob in each.likeliest} for each in drawn],
        "text_offset": offsets,
    }


CHAT = Shape(
    prefix="chatcmpl",
    whole="chat.completion",
    chunk="chat.completion.chunk",
    choice=_chat_choice,
    piece=_chat_piece,
    opening=_chat_opening,
    logprobs=_chat_logprobs,
)
TEXT = Shape(
    prefix="cmpl",
    whole="text_completion",
    chunk="text_completion",
    choice=_text_choice,
    piece=_text_piece,
    opening=None,
    logprobs=_text_logprobs,
)


def error_body(refusal: Refusal) -> Json:
    """OpenAI's shape of an error."""
    kind = _TYPES.get(refusal.http_status, "server_error" if refusal.http_status >= 500 else "invalid_request_error")
    return {"error": {"message": refusal.message, "type": kind, "param": refusal.param, "code": refusal.code}}
