"""The order of rows is a function of seed and epoch alone, and is made once an epoch."""

import numpy as np
import pytest

from tunesmith.worker.train.data import order
from tunesmith.worker.train.data.order import RowOrder, epoch_order


def steps(rows: RowOrder, *, first: int, last: int) -> list[int]:
    return [row for step in range(first, last + 1) for row in rows.of_step(step)]


def test_each_epoch_sees_every_row_once_in_an_order_of_its_own() -> None:
    rows = RowOrder(10, rows_per_step=4, seed=1)
    first, second = steps(rows, first=1, last=3), steps(rows, first=4, last=6)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert first == epoch_order(10, seed=1, epoch=0).tolist()


def test_a_run_that_begins_in_the_middle_sees_what_the_undisturbed_one_sees() -> None:
    undisturbed, resumed = (RowOrder(10, rows_per_step=4, seed=1) for _ in range(2))
    assert (
        steps(resumed, first=5, last=9) == steps(undisturbed, first=1, last=9)[-len(steps(resumed, first=5, last=9)) :]
    )


def test_the_order_never_changes_or_checkpoints_would_not_continue() -> None:
    assert epoch_order(12, seed=7, epoch=0).tolist() == [9, 1, 4, 3, 8, 11, 5, 10, 0, 6, 7, 2]
    assert epoch_order(12, seed=7, epoch=1).tolist() == [9, 8, 5, 0, 3, 10, 2, 11, 6, 1, 4, 7]


def test_another_seed_is_another_order() -> None:
    assert epoch_order(50, seed=1, epoch=0).tolist() != epoch_order(50, seed=2, epoch=0).tolist()


def test_every_place_is_as_likely_for_every_row() -> None:
    places = np.zeros((6, 6))
    for epoch in range(6000):
        places[np.arange(6), epoch_order(6, seed=3, epoch=epoch)] += 1
    assert np.abs(places / 1000 - 1).max() < 0.12  # four standard deviations of a fair draw


def test_an_epoch_is_put_in_order_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counted(rows: int, *, seed: int, epoch: int) -> np.ndarray:
        asked.append(epoch)
        return epoch_order(rows, seed=seed, epoch=epoch)

    monkeypatch.setattr(order, "epoch_order", counted)
    steps(RowOrder(100, rows_per_step=4, seed=1), first=1, last=60)
    assert asked == [0, 1, 2]
