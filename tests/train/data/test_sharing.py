"""Rows are balanced among processes before each share is packed; nobody asks another what it got."""

from collections import Counter

import numpy as np
import pytest

from tests.train import runs
from tunesmith.tuning.datasets.balance import evenness, expected_evenness, share_out
from tunesmith.worker.train.data.sharing import Sharing

LENGTHS = [90, 10, 20, 40, 40, 30, 10, 60]


def shared(rank: int = 0, *, processes: int = 3, lockstep: bool = False) -> Sharing:
    rows = runs.rows_of_lengths(LENGTHS)
    work = rows.lengths().astype(np.float64)
    return Sharing(rows, work=work, rank=rank, processes=processes, lockstep=lockstep)


def test_the_heaviest_row_goes_first_and_each_to_whoever_has_least() -> None:
    assert share_out([90, 10, 20, 40, 40, 30, 10, 60], processes=3) == [[0, 1], [7, 5, 6], [3, 4, 2]]


def test_no_process_has_a_third_more_than_the_best_way_would_give_it() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        work = random.lognormal(5, 1, size=40).tolist()
        loads = [sum(work[row] for row in share) for share in share_out(work, processes=4)]
        fifth_shares_with = sum(sorted(work)[-5:-3])  # five rows on four processes
        assert max(loads) <= (4 / 3) * max(sum(work) / 4, fifth_shares_with, *work)


@pytest.mark.parametrize("processes", [1, 2, 3, 20])
def test_processes_compute_every_row_once(processes: int) -> None:
    chosen = [7, 2, 5, 0, 1]
    everyones = shared(processes=processes).micro_steps(chosen, token_budget=60)
    assert len(everyones) == processes
    assert sorted(row for own in everyones for rows in own for row in rows) == sorted(chosen)
    own = [shared(rank, processes=processes).passes(chosen, token_budget=60) for rank in range(processes)]
    assert [[each.rows for each in passes] for passes in own] == everyones


def test_one_process_packs_as_if_there_were_no_sharing() -> None:
    assert shared(processes=1).micro_steps(range(8), token_budget=100) == [[[0, 1], [7, 3], [4, 5, 2, 6]]]


def test_a_process_without_rows_has_no_pass_but_in_lockstep_as_many_as_the_busiest() -> None:
    apart = [shared(rank, processes=4).passes([0, 1], token_budget=10) for rank in range(4)]
    assert [len(passes) for passes in apart] == [1, 1, 0, 0]
    together = [shared(rank, processes=4, lockstep=True).passes([0, 1], token_budget=10) for rank in range(4)]
    assert [[each.counts for each in passes] for passes in together] == [[True], [True], [False], [False]]
    assert together[3][0].rows == [1]  # the shortest row of the step


def test_evenness_is_the_share_of_time_that_processes_work() -> None:
    assert evenness([[2, 2], [4, 2]], processes=2) == pytest.approx(10 / (2 * (2 + 4)))
    assert evenness([[5, 1, 1]], processes=1) == 1.0


def test_the_planner_expects_what_rows_of_such_lengths_come_to() -> None:
    random = np.random.default_rng(1)
    lengths = np.sort(np.clip(random.lognormal(5.3, 1, size=4000), 16, 4096))
    for rows_per_step, processes in ((16, 8), (64, 8), (64, 4), (256, 8)):
        drawn = random.permutation(lengths)[: 4000 // rows_per_step * rows_per_step]
        real = evenness(drawn.reshape(-1, rows_per_step).tolist(), processes=processes)
        expected = expected_evenness(
            tuple(lengths[::10]), squared_share=0.0, rows_per_step=rows_per_step, processes=processes
        )
        assert expected == pytest.approx(real, abs=0.05)


def test_fewer_rows_than_processes_leave_some_idle() -> None:
    assert Counter(map(len, share_out([1.0, 1.0], processes=8))) == {1: 2, 0: 6}
    assert expected_evenness((10.0,), squared_share=0.1, rows_per_step=2, processes=8) == pytest.approx(0.25)
