"""The next batch is ready when the device is, and what it holds does not depend on who prepared it or when."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.train import runs
from tunesmith.worker.train.data import feed as feeding
from tunesmith.worker.train.data.feed import Feed
from tunesmith.worker.train.data.order import RowOrder
from tunesmith.worker.train.data.packing import pack
from tunesmith.worker.train.data.sharing import Sharing

CPU = torch.device("cpu")
STEPS, BUDGET = 5, 60
FEEDS: list[Feed] = []


@pytest.fixture(autouse=True)
def no_thread_outlives_its_test() -> Iterator[None]:
    yield
    while FEEDS:
        FEEDS.pop().close()


@pytest.fixture
def processor_threads() -> Iterator[None]:
    """Two for each product, whatever the machine has."""
    number = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(number)


def feed_of(*, rank: int = 0, processes: int = 1, lockstep: bool = False, rows_per_step: int = 8) -> Feed:
    rows = runs.rows_of_lengths([30, 10, 20, 40, 40, 30, 10, 50] * 3)
    work = rows.lengths().astype(np.float64)
    feed = Feed(
        rows,
        order=RowOrder(len(rows), rows_per_step=rows_per_step, seed=4),
        sharing=Sharing(rows, work=work, rank=rank, processes=processes, lockstep=lockstep),
        device=CPU,
        total_steps=STEPS,
    )
    FEEDS.append(feed)
    return feed


class Packed:
    """Every batch that was packed, by whom; packing fails when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[tuple[int, ...]] = []
        self.threads: set[str] = set()
        self.fails_at = -1
        monkeypatch.setattr(feeding, "pack", self.pack)

    def pack(self, *chosen: Any, **named: Any) -> Any:
        self.threads.add(threading.current_thread().name)
        if len(self.rows) == self.fails_at:
            raise torch.OutOfMemoryError("out of memory")
        batch = pack(*chosen, **named)
        self.rows.append(batch.rows)
        return batch


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> Packed:
    return Packed(monkeypatch)


def number_of_threads() -> int:
    """Those of libraries too, which Python does not know."""
    return len(list(Path("/proc/self/task").iterdir()))


def settle(feed: Feed) -> None:
    assert feed._ahead is not None
    feed._ahead[1].exception()  # waits for it


@pytest.mark.parametrize("processes", [1, 3])
def test_every_row_of_a_step_comes_once_and_the_last_batch_says_so(processes: int) -> None:
    for step in range(1, STEPS + 1):
        seen: list[int] = []
        for rank in range(processes):
            batches = list(feed_of(rank=rank, processes=processes).batches(step, token_budget=BUDGET))
            assert [each.last for each in batches] == [False] * (len(batches) - 1) + [True]
            seen += [row for each in batches for row in each.batch.rows]
        assert sorted(seen) == sorted(feed_of().rows_of(step))


def test_one_batch_is_prepared_ahead_by_a_thread_and_never_two(packed: Packed) -> None:
    feed = feed_of()
    for taken, _ in enumerate(feed.batches(1, token_budget=BUDGET), start=1):
        settle(feed)
        assert len(packed.rows) == taken + 1
    of_next_step = packed.rows[-1]
    assert next(feed.batches(2, token_budget=BUDGET)).batch.rows == of_next_step
    assert all(name.startswith("feed") for name in packed.threads)


def test_nothing_is_prepared_beyond_the_last_step(packed: Packed) -> None:
    feed = feed_of()
    batches = list(feed.batches(STEPS, token_budget=BUDGET))
    assert feed._ahead is None
    assert len(packed.rows) == len(batches)


def test_a_step_that_is_begun_again_with_smaller_micro_steps_gets_those() -> None:
    feed = feed_of()
    next(feed.batches(1, token_budget=BUDGET))
    again = [each.batch.rows for each in feed.batches(1, token_budget=40)]
    assert again == [each.batch.rows for each in feed_of().batches(1, token_budget=40)]


def test_an_error_is_raised_where_its_batch_is_wanted_and_the_step_can_be_tried_again(packed: Packed) -> None:
    packed.fails_at = 1
    feed = feed_of()
    batches = feed.batches(1, token_budget=BUDGET)
    next(batches)
    settle(feed)
    with pytest.raises(torch.OutOfMemoryError):
        next(batches)
    packed.fails_at = -1
    assert next(feed.batches(1, token_budget=BUDGET)).batch.rows == packed.rows[0]


def test_a_process_without_rows_has_no_batch_and_goes_on_to_the_next_step() -> None:
    feed = feed_of(rank=2, processes=3, rows_per_step=2)
    assert list(feed.batches(1, token_budget=BUDGET)) == []
    filler = feed_of(rank=2, processes=3, rows_per_step=2, lockstep=True)
    ((batch, counts, last),) = filler.batches(1, token_budget=BUDGET)
    assert (len(batch.rows), counts, last) == (1, False, True)


def test_no_random_number_is_drawn() -> None:
    before = torch.get_rng_state()
    feed = feed_of()
    for step in range(1, STEPS + 1):
        list(feed.batches(step, token_budget=BUDGET))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_thread_starts_no_threads_of_its_own(processor_threads: None) -> None:
    """OpenMP keeps a team for each thread that computes together, and lets them wait for less when they outnumber the
    cores: with a second team LoRA on two cores was 17 % slower.
    """
    feed = feed_of()
    feed._thread.submit(torch.arange, 1).result()
    before = number_of_threads()
    list(feed.batches(1, token_budget=BUDGET))
    settle(feed)
    assert number_of_threads() == before
