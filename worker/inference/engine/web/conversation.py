"""One request from its body to its answer: sequences in the engine, and what they deliver as OpenAI shows it."""

from __future__ import annotations

import itertools
import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from collections.abc import Sequence as Many
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tunesmith.tuning.codes import ErrorCode
from tunesmith.worker.inference.engine.adapters.residents import Adapter
from tunesmith.worker.inference.engine.answering.engine import Engine
from tunesmith.worker.inference.engine.answering.outbox import Delta, Outbox
from tunesmith.worker.inference.engine.answering.prompts import Prompts
from tunesmith.worker.inference.engine.answering.sampling import Drawn, Sampler, Sampling
from tunesmith.worker.inference.engine.answering.sequence import Sequence
from tunesmith.worker.inference.engine.answering.text import TextStream, bytes_of_token
from tunesmith.worker.inference.engine.refusal import Refusal
from tunesmith.worker.inference.engine.web.answers import (
    Choice,
    Json,
    Shape,
    Usage,
    characters_in,
    chat_calls,
    error_body,
)
from tunesmith.worker.inference.engine.web.requests import Asked

UNASKED_TOKENS = 2048  # of an answer whose request names no bound: room is kept for each of them


@dataclass(frozen=True)
class Served:
    """What one engine serves, under which name."""

    engine: Engine
    prompts: Prompts
    name: str
    vocabulary: int
    clock: Callable[[], float]  # seconds since 1970

    def adapter_folder(self, model: str) -> Path | None:
        """Of the adapter of this name; None for the base.

        Raises:
            Refusal: nothing has this name.
        """
        if model == self.name:
            return None
        adapter = self.engine.residents.hold(model)
        self.engine.residents.release(adapter)
        return adapter.folder


class Conversation:
    """The answers of one request, begun; whoever reads them calls `leave` at the end."""

    def __init__(
        self,
        served: Served,
        asked: Asked,
        shape: Shape,
        *,
        sampling: Sampling,
        shows_logprobs: bool,
        tools: Collection[str] = (),
    ) -> None:
        self._served, self._asked, self._shape = served, asked, shape
        self._sampling, self._shows_logprobs = sampling, shows_logprobs
        self._tools = tools
        self._outbox = Outbox()
        self._sequences: list[Sequence] = []
        self._prompt_tokens = 0
        self._characters: Counter[int] = Counter()  # of each choice, whose log-probabilities were shown
        self._head: Json = {
            "id": f"{shape.prefix}-{secrets.token_hex(12)}",
            "created": int(served.clock()),
            "model": asked.model,
        }

    def begin(
        self,
        prompts: Many[tuple[int, ...]],
        *,
        most_tokens: int | None,
        ends: frozenset[int],
        param: str,
        bound: str = "max_tokens",
    ) -> None:
        """Put every choice of every prompt in the line. `param` and `bound` are the fields of prompt and `most_tokens`.

        Raises:
            Refusal: a prompt does not fit the model, the model is unknown, or the line is full.
        """
        rooms = [self._room(prompt, most_tokens, param=param, bound=bound) for prompt in prompts]
        self._prompt_tokens = sum(map(len, prompts))
        choices = range(self._asked.n or 1)
        try:
            for (prompt, room), _ in itertools.product(zip(prompts, rooms, strict=True), choices):
                self._sequences.append(self._sequence(prompt, most_tokens=room, ends=ends))
            self._served.engine.submit(self._sequences)
        except Refusal:
            for sequence in self._sequences:
                if sequence.adapter is not None:
                    self._served.engine.residents.release(sequence.adapter)
            raise

    def leave(self) -> None:
        """Nobody reads on: what is still written ends."""
        for sequence in self._sequences:
            sequence.cancel()

    async def whole(self) -> Json:
        """All choices, when they are complete.

        Raises:
            Refusal: one of them ended with an error.
        """
        choices = [Choice() for _ in self._sequences]
        async for index, delta in self._deltas():
            choices[index].add(delta)
        for choice in choices:
            choice.read_calls(self._tools)
        logprobs = [self._logprobs(index, choice.drawn) for index, choice in enumerate(choices)]
        shown = [self._shape.choice(index, choice, logprobs[index]) for index, choice in enumerate(choices)]
        return {**self._head, "object": self._shape.whole, "choices": shown, "usage": self._usage().shown()}

    async def events(self) -> AsyncIterator[bytes]:
        """The same as it comes, as server-sent events.

        Raises:
            Refusal: an error before there was anything to show; a later one is an event.
        """
        is_open: set[int] = set()
        held = [Choice() for _ in self._sequences]  # with tools: what calls one is known at the end
        try:
            async for index, delta in self._deltas():
                if self._shape.opening and index not in is_open:
                    yield self._chunk([self._shape.opening(index)])
                is_open.add(index)
                if self._tools:
                    held[index].add(delta)
                    if delta.is_last:
                        yield self._chunk([self._called(index, held[index])])
                elif delta.text or delta.is_last or self._shows_logprobs:
                    yield self._chunk([self._shape.piece(index, delta, self._logprobs(index, delta.drawn))])
            if self._asked.wants_usage:
                yield self._chunk([], usage=self._usage().shown())
        except Refusal as error:
            if not is_open:
                raise
            yield _event(error_body(error))
        yield b"data: [DONE]\n\n"

    def _called(self, index: int, choice: Choice) -> Json:
        choice.read_calls(self._tools)
        return chat_calls(index, choice, self._logprobs(index, choice.drawn))

    async def _deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        left = len(self._sequences)
        while left:
            index, delta = await self._outbox.get()
            if delta.error is not None:
                raise delta.error
            left -= delta.is_last
            yield index, delta

    def _sequence(self, prompt: tuple[int, ...], *, most_tokens: int, ends: frozenset[int]) -> Sequence:
        index, asked = len(self._sequences), self._asked
        seed = secrets.randbits(63) if asked.seed is None else asked.seed * (len(range(asked.n or 1))) + index
        return Sequence(
            prompt,
            adapter=self._hold(),
            sampler=Sampler(self._sampling, seed=seed, prompt=prompt),
            text=TextStream(self._served.prompts.tokenizer, stops=asked.stops),
            ends=ends,
            most_tokens=most_tokens,
            deliver=partial(self._outbox.put, index),
        )

    def _hold(self) -> Adapter | None:
        return None if self._asked.model == self._served.name else self._served.engine.residents.hold(self._asked.model)

    def _room(self, prompt: tuple[int, ...], most_tokens: int | None, *, param: str, bound: str) -> int:
        """Tokens that the answer may have."""
        context = self._served.engine.context_tokens
        if not prompt:
            raise Refusal(f"'{param}' is empty: there is nothing to go on with.", param=param)
        if max(prompt) >= self._served.vocabulary or min(prompt) < 0:
            raise Refusal(f"'{param}' has a token that this model does not know.", param=param)
        left = context - len(prompt)
        if left < 1:
            raise Refusal(
                f"'{param}' has {len(prompt):,} tokens, this model takes {context:,} with the answer. Shorten it.",
                code=ErrorCode.CONTEXT_LENGTH_EXCEEDED,
                param=param,
            )
        if most_tokens is not None and most_tokens > left:
            raise Refusal(
                f"'{bound}' is {most_tokens:,}, but a prompt of {len(prompt):,} tokens leaves {left:,} of the "
                f"{context:,} that this model takes.",
                code=ErrorCode.CONTEXT_LENGTH_EXCEEDED,
                param=bound,
            )
        return most_tokens or min(left, UNASKED_TOKENS)

    def _logprobs(self, index: int, drawn: Many[Drawn]) -> Json | None:
        if not self._shows_logprobs:
            return None
        shown = self._shape.logprobs(drawn, self._written, self._characters[index])
        self._characters[index] += sum(characters_in(self._written(each.token)) for each in drawn)
        return shown

    def _written(self, token: int) -> bytes:
        return bytes_of_token(self._served.prompts.tokenizer, token)

    def _usage(self) -> Usage:
        """A prompt counts once, however many choices go on from it."""
        written = sum(sequence.written for sequence in self._sequences)
        first_choices = self._sequences[:: self._asked.n or 1]
        return Usage(self._prompt_tokens, written, sum(sequence.reused_tokens for sequence in first_choices))

    def _chunk(self, choices: list[Json], *, usage: Json | None = None) -> bytes:
        shown = {**self._head, "object": self._shape.chunk, "choices": choices}
        if self._asked.wants_usage:
            shown["usage"] = usage
        return _event(shown)


def _event(content: Json) -> bytes:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n".encode()
