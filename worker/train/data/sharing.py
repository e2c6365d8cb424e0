"""Who computes which rows: those of a pass over data are balanced among processes first, each share is packed after.

What every process gets is a function of the rows alone, so all of them know it without asking one another.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tunesmith.tuning.datasets.balance import share_out
from tunesmith.worker.train.data.packing import plan_micro_steps
from tunesmith.worker.train.data.rows import Rows


class Pass(NamedTuple):
    """The rows of one micro-step. One that does not count only keeps step with the other processes."""

    rows: list[int]
    counts: bool


class Sharing:
    """How one process of several goes through a set of rows.

    `work` says what each row costs, fp64 [rows], in any unit. In `lockstep` every process runs as many passes as the
    busiest, because weights that are shared out move in each. Unless rows may go `together`, each has a pass to itself.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        work: np.ndarray,
        rank: int = 0,
        processes: int = 1,
        lockstep: bool = False,
        together: bool = True,
    ) -> None:
        self.lengths, self.together, self._work = rows.lengths(), together, work
        self._rank, self._processes, self._lockstep = rank, processes, lockstep

    def micro_steps(self, chosen: Sequence[int], *, token_budget: int) -> list[list[list[int]]]:
        """The micro-steps of each process."""
        shares = share_out(self._work[list(chosen)].tolist(), processes=self._processes)
        everyones = [[chosen[position] for position in share] for share in shares]
        return [
            plan_micro_steps(rows, self.lengths, token_budget=token_budget, together=self.together)
            for rows in everyones
        ]

    def passes(self, chosen: Sequence[int], *, token_budget: int) -> list[Pass]:
        """This process's passes; a process without rows has none, but in lockstep."""
        everyones = self.micro_steps(chosen, token_budget=token_budget)
        own = [Pass(rows, counts=True) for rows in everyones[self._rank]]
        if not self._lockstep:
            return own
        shortest = min(chosen, key=lambda row: (int(self.lengths[row]), row))
        return own + [Pass([shortest], counts=False)] * (max(map(len, everyones)) - len(own))
