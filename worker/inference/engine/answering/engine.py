"""The loop: at each step every sequence writes one token, and newcomers compute a piece of their prompts beside them.

Sequences join and leave between steps. A newcomer waits in a bounded line for a place, for room for its keys and
values, and for its adapter; the first in the line is the first to get one.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence as Many
from dataclasses import dataclass

from tunesmith.tuning.codes import ErrorCode
from tunesmith.worker.inference.engine.adapters.residents import Residents
from tunesmith.worker.inference.engine.answering.sequence import Place, Sequence
from tunesmith.worker.inference.engine.compute.cache import BLOCK_TOKENS, KeyValueCache, Prefixes
from tunesmith.worker.inference.engine.compute.model import BatchModel, Block, Row
from tunesmith.worker.inference.engine.refusal import Refusal

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 5


@dataclass(frozen=True)
class Limits:
    """What the engine takes on. Bytes of memory, tokens of prompts in one step beside writers and without any."""

    sequences: int = 16
    waiting: int = 256
    context_tokens: int | None = None  # None: the model's own
    adapter_bytes: int = 2 * 1024**3
    cache_bytes: int = 4 * 1024**3
    prefix_bytes: int = 256 * 1024**2
    prompt_tokens_beside: int = 64
    prompt_tokens_alone: int = 256


class Engine:
    """Answers with one base and its adapters. `submit` from any thread; `step` from one, which `run` may be."""

    def __init__(self, model: BatchModel, *, limits: Limits) -> None:
        self.limits = limits
        self.residents = Residents(model.base, most_bytes=limits.adapter_bytes)
        self.context_tokens = min(limits.context_tokens or model.context_tokens, model.context_tokens)
        self._model = model
        self._prefixes = Prefixes(most_bytes=limits.prefix_bytes)
        self._waiting: deque[Sequence] = deque()
        self._active: list[Sequence] = []
        self._wakened = threading.Condition()
        self._is_draining = self._is_stopped = False

    def submit(self, sequences: Many[Sequence]) -> None:
        """Put the choices of one request in the line.

        Raises:
            Refusal: the line is full, the engine is about to end, or one needs more room than there is for all.
        """
        with self._wakened:
            if self._is_draining:
                raise _busy("The engine is about to end.", code=ErrorCode.SERVICE_UNAVAILABLE, http_status=503)
            if len(self._waiting) + len(sequences) > self.limits.waiting + self._free_places():
                raise _busy(
                    f"{len(self._waiting)} answers wait already; {self.limits.waiting} may.",
                    code=ErrorCode.TOO_MANY_REQUESTS,
                    http_status=429,
                )
            for sequence in sequences:
                self._require_room(sequence)
            self._waiting.extend(sequences)
            self._wakened.notify()

    def run(self) -> None:
        """Step until `stop`."""
        while not self._is_stopped:
            try:
                is_busy = self.step()
            except Exception:
                log.exception("The engine failed between steps; every answer under way ends")
                self._fail([*self._active, *self._waiting])
                continue
            if not is_busy:
                with self._wakened:
                    self._wakened.wait_for(lambda: self._waiting or self._active or self._is_stopped, timeout=1)

    def stop(self) -> None:
        """Let `run` end after the step at hand."""
        with self._wakened:
            self._is_stopped = True
            self._wakened.notify()

    def drain(self) -> None:
        """Take nothing more on."""
        self._is_draining = True

    @property
    def is_draining(self) -> bool:
        """Whether `drain` was called."""
        return self._is_draining

    @property
    def is_idle(self) -> bool:
        """Whether nobody is waiting or being answered."""
        return not self._waiting and not self._active

    def counts(self) -> dict[str, int]:
        """What it is doing, and how much memory beside the base it has for it."""
        return {
            "active": len(self._active),
            "waiting": len(self._waiting),
            "adapter_bytes": self.residents.bytes,
            "lane_bytes": self._model.thin.bytes,
            "prefix_bytes": self._prefixes.bytes,
            "cache_bytes": self._cache_bytes(),
        }

    def step(self) -> bool:
        """One pass over the model. False when there is nothing to do."""
        self._leave()
        self._join()
        writers = [sequence for sequence in self._active if sequence.last_token is not None]
        pieces = self._pieces(beside=bool(writers))
        if not writers and not pieces:
            return False
        asked = writers + [sequence for sequence, block in pieces if block.is_last]
        try:
            logits = self._model.compute([_row(writer) for writer in writers], [block for _, block in pieces])
        except Exception:
            log.exception("A step over %d sequences failed", len(self._active))
            self._fail([*writers, *(sequence for sequence, _ in pieces)])
            return True
        for sequence, row in zip(asked, logits, strict=True):
            if sequence.last_token is None:
                self._begin_writing(sequence)
            sequence.advance(row)
        self._leave()
        return True

    def _leave(self) -> None:
        for sequence in [sequence for sequence in self._active if sequence.is_over or sequence.is_cancelled]:
            self._active.remove(sequence)
            self._release(sequence)
        with self._wakened:
            gone = [sequence for sequence in self._waiting if sequence.is_cancelled or sequence.is_over]
            for sequence in gone:
                self._waiting.remove(sequence)
        for sequence in gone:
            self._release(sequence)

    def _join(self) -> None:
        while self._waiting and self._free_places():
            sequence = self._waiting[0]
            try:
                place = self._place(sequence)
            except (Refusal, MemoryError, RuntimeError) as error:
                log.warning("An answer could not begin: %s", error)
                self._waiting.popleft()
                sequence.fail(error if isinstance(error, Refusal) else _internal())
                self._release(sequence)
                continue
            if place is None:
                return
            with self._wakened:
                self._waiting.popleft()
                self._active.append(sequence)
            sequence.place = place

    def _place(self, sequence: Sequence) -> Place | None:
        """None while there is no room."""
        wanted = sequence.room_tokens * self._model.shape.token_bytes
        if self._active and self._cache_bytes() + wanted > self.limits.cache_bytes:
            return None
        cache = KeyValueCache(self._model.shape, tokens=sequence.room_tokens)
        if sequence.adapter is None:
            return Place(cache, None)
        weights = self.residents.pin(sequence.adapter)
        return Place(cache, weights) if weights is not None else None

    def _pieces(self, *, beside: bool) -> list[tuple[Sequence, Block]]:
        """Blocks of prompts for this step, those of the longest waiting first."""
        left = self.limits.prompt_tokens_beside if beside else self.limits.prompt_tokens_alone
        found: list[tuple[Sequence, Block]] = []
        for sequence in self._active:
            if sequence.last_token is not None or sequence.place is None:
                continue
            place = sequence.place
            if not place.cache.tokens and left >= BLOCK_TOKENS:  # not before: who came first may leave something
                sequence.reused_tokens = self._prefixes.fill(place.cache, sequence.prompt, adapter=_serial(place))
            for start in range(place.cache.tokens, len(sequence.prompt), BLOCK_TOKENS):
                if left < BLOCK_TOKENS:
                    return found
                tokens = sequence.prompt[start : start + BLOCK_TOKENS]
                is_last = start + BLOCK_TOKENS >= len(sequence.prompt)
                found.append((sequence, Block(tokens, place.cache, place.weights, is_last=is_last)))
                left -= BLOCK_TOKENS
        return found

    def _begin_writing(self, sequence: Sequence) -> None:
        place = sequence.place
        assert place is not None  # noqa: S101 - for the type checker
        self._prefixes.keep(place.cache, sequence.prompt, adapter=_serial(place))
        if place.weights is not None:
            sequence.lane = self._model.thin.take(place.weights)

    def _fail(self, sequences: Many[Sequence]) -> None:
        for sequence in dict.fromkeys(sequences):
            sequence.fail(_internal())
        self._leave()

    def _release(self, sequence: Sequence) -> None:
        if sequence.lane is not None:
            self._model.thin.give_back(sequence.lane)
        if sequence.adapter is not None:
            if sequence.place is not None:
                self.residents.unpin(sequence.adapter)
            self.residents.release(sequence.adapter)
        sequence.place = sequence.lane = sequence.adapter = None

    def _require_room(self, sequence: Sequence) -> None:
        wanted = sequence.room_tokens * self._model.shape.token_bytes
        if wanted > self.limits.cache_bytes:
            raise Refusal(
                f"Prompt and answer of {sequence.room_tokens:,} tokens need {wanted:,} bytes of keys and values, all "
                f"answers together may have {self.limits.cache_bytes:,}. Ask for fewer tokens.",
                param="max_tokens",
            )

    def _free_places(self) -> int:
        return self.limits.sequences - len(self._active)

    def _cache_bytes(self) -> int:
        return sum(sequence.place.cache.bytes for sequence in list(self._active) if sequence.place is not None)


def _row(sequence: Sequence) -> Row:
    assert sequence.place is not None  # noqa: S101 - for the type checker
    assert sequence.last_token is not None  # noqa: S101 - for the type checker
    return Row(sequence.last_token, sequence.place.cache, sequence.lane)


def _serial(place: Place) -> int:
    return place.weights.serial if place.weights is not None else 0


def _internal() -> Refusal:
    return Refusal(
        "The engine failed at this answer. Ask again; its log has the reason.",
        code=ErrorCode.INTERNAL_ERROR,
        http_status=500,
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


def _busy(problem: str, *, code: ErrorCode, http_status: int) -> Refusal:
    return Refusal(
        f"{problem} Ask again in {RETRY_AFTER_SECONDS} seconds.",
        code=code,
        http_status=http_status,
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )
