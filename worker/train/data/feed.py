"""Packed batches of one process, step after step: a thread prepares the next while the device works on the last."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

import torch

from tunesmith.worker.train.data.order import RowOrder
from tunesmith.worker.train.data.packing import PackedBatch, pack
from tunesmith.worker.train.data.rows import Rows
from tunesmith.worker.train.data.sharing import Pass, Sharing


class Prepared(NamedTuple):
    """A micro-step on its device. `last`: of this process's in the step; one that does not `counts` adds nothing."""

    batch: PackedBatch
    counts: bool
    last: bool


class _Place(NamedTuple):
    step: int
    number: int
    token_budget: int


class Feed:
    """Gives the micro-steps of each optimizer step in their order, with at most one prepared ahead.

    The thread draws no random number, and what it prepares depends on step and budget alone: a step that is begun again
    with smaller micro-steps finds that what was prepared is not what it wants, and has its own prepared.
    """

    def __init__(
        self, rows: Rows, *, order: RowOrder, sharing: Sharing, device: torch.device, total_steps: int
    ) -> None:
        self._rows, self._order, self._sharing = rows, order, sharing
        self._device, self._total_steps = device, total_steps
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed", initializer=_use, initargs=(device,))
        self._ahead: tuple[_Place, Future[Prepared | None]] | None = None
        self._laid_out: tuple[tuple[int, int], list[Pass]] | None = None

    def rows_of(self, step: int) -> list[int]:
        """The rows that all processes together see in one step (the first is 1)."""
        if self._ahead is not None:
            wait([self._ahead[1]])  # the thread may be putting the next epoch in order
        return self._order.of_step(step)

    def batches(self, step: int, *, token_budget: int) -> Iterator[Prepared]:
        """This process's micro-steps of a step. An error of the thread is raised here, where its batch is wanted."""
        place = _Place(step, 0, token_budget)
        while (prepared := self._take(place)) is not None:
            place = place._replace(number=place.number + 1)
            self._prepare_ahead(_Place(step + 1, 0, token_budget) if prepared.last else place)
            yield prepared
            if prepared.last:
                return
        self._prepare_ahead(_Place(step + 1, 0, token_budget))

    def close(self) -> None:
        """End the thread; what it has prepared is dropped."""
        self._thread.shutdown(cancel_futures=True)

    def _take(self, place: _Place) -> Prepared | None:
        ahead, self._ahead = self._ahead, None  # an error kept here would keep the memory that it speaks of
        if ahead is None or ahead[0] != place:
            return self._thread.submit(self._prepare, place).result()
        return ahead[1].result()

    def _prepare_ahead(self, place: _Place) -> None:
        if place.step <= self._total_steps:
            self._ahead = place, self._thread.submit(self._prepare, place)

    def _prepare(self, place: _Place) -> Prepared | None:
        passes = self._passes(place.step, place.token_budget)
        if place.number >= len(passes):
            return None
        rows, counts = passes[place.number]
        batch = pack(rows, self._rows, device=self._device)
        return Prepared(batch, counts, last=place.number + 1 == len(passes))

    def _passes(self, step: int, token_budget: int) -> list[Pass]:
        """Laid out once a step, by the thread alone."""
        if self._laid_out is None or self._laid_out[0] != (step, token_budget):
            passes = self._sharing.passes(self._order.of_step(step), token_budget=token_budget)
            self._laid_out = (step, token_budget), passes
        return self._laid_out[1]


def _use(device: torch.device) -> None:
    """The current GPU is each thread's own: memory pinned by a new thread would go to the first one's context."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
