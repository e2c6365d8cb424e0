"""What a model thinks of each row: loss and hits over its taught tokens, by the passes that training evaluates with."""

import math
import time
from collections.abc import Callable

import numpy as np
import torch

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.evaluation import SideResult
from tunesmith.worker.train.checkpoints.state import TrainState
from tunesmith.worker.train.data.packing import pack
from tunesmith.worker.train.data.sharing import Sharing
from tunesmith.worker.train.failures import user_error
from tunesmith.worker.train.kernels.loss import token_scores
from tunesmith.worker.train.loop.loop import Stopped
from tunesmith.worker.train.loop.memory_ladder import MemoryLadder
from tunesmith.worker.train.models.model import Learner
from tunesmith.worker.train.run import RunContext

_SECONDS_BETWEEN_POINTS = 1.0


class Steps:
    """How many rows are done, of all models together: told now and then, and whether to stop is asked each time."""

    def __init__(self, run: RunContext, *, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._run, self._total, self._clock = run, total, clock
        self._done, self._began, self._told = 0, clock(), -math.inf

    def done(self, rows: int) -> None:
        """So many more.

        Raises:
            Stopped: the worker has asked for it; an evaluation begins again from its first row.
        """
        if self._run.directory.stop.exists():
            raise Stopped
        self._done += rows
        now = self._clock()
        if now - self._told < _SECONDS_BETWEEN_POINTS and self._done < self._total:
            return
        self._told = now
        left = (now - self._began) / max(1, self._done) * max(0, self._total - self._done)
        self._run.recorder.metrics(step=self._done, total_steps=self._total, eta_seconds=round(left, 1))


def row_losses(run: RunContext, learner: Learner, *, steps: Steps) -> list[SideResult]:
    """One result per row of the run, in their order.

    Raises:
        JobFailure: `out_of_memory`, or `model_gives_no_numbers`.
        Stopped: on request.
    """
    progress = TrainState()
    ladder = MemoryLadder(run, learner, progress=progress)
    rows = run.rows
    loss, correct = np.zeros(len(rows)), np.zeros(len(rows), dtype=np.int64)
    sharing = Sharing(rows, work=rows.lengths().astype(np.float64), together=learner.packs)
    waiting = dict.fromkeys(range(len(rows)))

    def measure() -> None:
        """The rows that are left; those that were measured before memory ended stay so."""
        for chosen, _ in sharing.passes(list(waiting), token_budget=progress.token_budget):
            sums, hits = _sums(learner, chosen, run)
            loss[chosen], correct[chosen] = sums, hits
            for row in chosen:
                del waiting[row]
            steps.done(len(chosen))

    learner.eval()
    ladder.descend_until_it_fits(measure, doing="while evaluating", has_backward=False)
    if not np.isfinite(loss).all():
        raise _no_numbers(int(rows.line_numbers[int(np.flatnonzero(~np.isfinite(loss))[0])]))
    tokens = rows.supervised_counts()
    return [
        SideResult(loss=float(loss[row]), correct=int(correct[row]), tokens=int(tokens[row]))
        for row in range(len(rows))
    ]


@torch.no_grad()
def _sums(learner: Learner, chosen: list[int], run: RunContext) -> tuple[np.ndarray, np.ndarray]:
    """Loss and hits of each chosen row, summed over its tokens."""
    batch = pack(chosen, run.rows, device=run.device)
    scores = learner(batch, token_scores)
    sums = torch.zeros(len(chosen), dtype=torch.float64).index_add(
        0, batch.target_sequences.cpu(), -scores.log_probabilities.double().cpu()
    )
    hits = torch.zeros(len(chosen), dtype=torch.int64).index_add(
        0, batch.target_sequences.cpu(), scores.correct.long().cpu()
    )
    return sums.numpy(), hits.numpy()


def _no_numbers(line: int) -> Exception:
    return user_error(
        ErrorCode.MODEL_GIVES_NO_NUMBERS,
        f"The model gives no finite loss for line {line} of the file.",
        hint="Its weights may be damaged, or overflow in float16: evaluate it where there is bfloat16.",
        param="model",
    )
