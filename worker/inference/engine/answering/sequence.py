"""One answer under way: its prompt, its place in the engine, and what has been written of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from tunesmith.tuning.codes import ErrorCode
from tunesmith.worker.inference.engine.adapters.files import AdapterWeights
from tunesmith.worker.inference.engine.adapters.residents import Adapter
from tunesmith.worker.inference.engine.answering.outbox import Delta
from tunesmith.worker.inference.engine.answering.sampling import NoNumbers, Sampler
from tunesmith.worker.inference.engine.answering.text import TextStream
from tunesmith.worker.inference.engine.compute.cache import KeyValueCache
from tunesmith.worker.inference.engine.compute.thin import Lane
from tunesmith.worker.inference.engine.refusal import Refusal


@dataclass(frozen=True)
class Place:
    """What a sequence holds while it is computed."""

    cache: KeyValueCache
    weights: AdapterWeights | None  # pinned


class Sequence:
    """Belongs to the engine's thread, but for `cancel`."""

    def __init__(
        self,
        prompt: tuple[int, ...],
        *,
        adapter: Adapter | None,
        sampler: Sampler,
        text: TextStream,
        ends: frozenset[int],
        most_tokens: int,
        deliver: Callable[[Delta], bool],
    ) -> None:
        self.prompt, self.adapter, self.most_tokens = prompt, adapter, most_tokens
        self._sampler, self._text, self._ends, self._deliver = sampler, text, ends, deliver
        self.place: Place | None = None
        self.lane: Lane | None = None
        self.last_token: int | None = None  # None until the prompt is computed
        self.written = 0
        self.reused_tokens = 0  # of the prompt
        self.is_cancelled = False
        self.is_over = False

    @property
    def room_tokens(self) -> int:
        """That it may come to hold."""
        return len(self.prompt) + self.most_tokens

    def cancel(self) -> None:
        """Nobody reads it any more: it ends before the next step. From any thread."""
        self.is_cancelled = True

    def advance(self, logits: torch.Tensor) -> None:
        """Draw the next token and deliver what it makes certain."""
        try:
            drawn = self._sampler.draw(logits)
        except NoNumbers:
            self.fail(
                Refusal(
                    "The model gave no finite numbers for this prompt.",
                    code=ErrorCode.MODEL_GIVES_NO_NUMBERS,
                    http_status=500,
                )
            )
            return
        self.last_token, self.written = drawn.token, self.written + 1
        is_end = drawn.token in self._ends
        text = self._text.flush() if is_end else self._text.push(drawn.token)
        is_stop = is_end or self._text.is_stopped
        if is_stop or self.written >= self.most_tokens:
            reason = "stop" if is_stop else "length"
            self._finish(Delta(text + self._text.flush(), (drawn,), finish_reason=reason))
        elif not self._deliver(Delta(text, (drawn,))):
            self.fail(Refusal("The client left too much of the answer unread.", http_status=408))

    def fail(self, error: Refusal) -> None:
        """End it with an error."""
        self._finish(Delta(error=error))

    def _finish(self, delta: Delta) -> None:
        self.is_over = True
        self._deliver(delta)
