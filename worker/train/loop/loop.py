"""The training loop: optimizer steps with evaluation, checkpoints, stop requests and recovery from lack of memory.

Everything a step does follows from (seed, step, weights, optimizer state, random state): a run resumed from a
checkpoint therefore continues as the undisturbed run would have, on a CPU to the last bit.
"""

import math
from contextlib import closing

import torch
import torch.distributed

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Category, Failure, JobFailure
from tunesmith.tuning.state import Phase
from tunesmith.worker.train.checkpoints.saver import CheckpointSaver
from tunesmith.worker.train.checkpoints.schedule import CheckpointSchedule
from tunesmith.worker.train.checkpoints.state import TrainState, random_state, restore_random_state
from tunesmith.worker.train.checkpoints.trainable_state import StateFile
from tunesmith.worker.train.checkpoints.writer import CheckpointWriter
from tunesmith.worker.train.data.feed import Feed
from tunesmith.worker.train.data.order import RowOrder
from tunesmith.worker.train.loop.canary import run_canary
from tunesmith.worker.train.loop.early_stopping import EarlyStopping
from tunesmith.worker.train.loop.evaluate import Evaluator
from tunesmith.worker.train.loop.loss_scale import LossScale
from tunesmith.worker.train.loop.memory_ladder import MemoryLadder
from tunesmith.worker.train.loop.objectives import LossObjective
from tunesmith.worker.train.loop.pace import Pace
from tunesmith.worker.train.loop.start import Start, begin_or_resume
from tunesmith.worker.train.loop.step_metrics import MetricPoints, StepSums
from tunesmith.worker.train.models.model import Learner
from tunesmith.worker.train.optim.optimizer import MasterOptimizer
from tunesmith.worker.train.optim.schedule import learning_rate_at
from tunesmith.worker.train.optim.zero import ShardedOptimizer
from tunesmith.worker.train.profiling.neighbours import Neighbours
from tunesmith.worker.train.run import RunContext

LINES_NAMED = 8  # of the training file, where a step has gone wrong


class Stopped(Exception):
    """The run was asked to stop and has a complete checkpoint."""


def train(
    run: RunContext,
    learner: Learner,
    *,
    masters: MasterOptimizer | ShardedOptimizer,
    objective: LossObjective,
    weight_file: StateFile,
) -> TrainState:
    """Train until the last step, or until nothing gets better; returns where the run ended.

    Raises:
        Stopped: on request, with a checkpoint of the step reached.
        JobFailure: `loss_is_not_finite`, `out_of_memory`, or a failure to write.
    """
    start = begin_or_resume(run, learner, masters=masters, objective=objective, weight_file=weight_file)
    with closing(_Loop(start)) as loop:
        return loop.run_to_end()


class _Loop:
    """The optimizer steps of one run; each of its parts owns one rule."""

    def __init__(self, start: Start) -> None:
        run, progress, total_steps = start.run, start.progress, start.total_steps
        self._run, self._progress, self._total_steps = run, progress, total_steps
        self._learner, self._masters, self._utilization = start.learner, start.masters, start.utilization
        writer = CheckpointWriter(
            run.directory.checkpoints, versions=run.versions, rank=run.rank, processes=run.processes
        )
        self._checkpoints = CheckpointSaver(
            run, start.masters, weight_file=start.weight_file, best=start.best, progress=progress, writer=writer
        )
        self._schedule = CheckpointSchedule(run, writer, progress, total_steps=total_steps)
        self._pace = Pace(progress)
        self._points = MetricPoints(run, progress, accuracy=start.objective.accuracy, total_steps=total_steps)
        self._evaluator = Evaluator(start)
        self._early_stopping = EarlyStopping(run, progress, start.best, total_steps=total_steps)
        self._neighbours = Neighbours(run)
        sharing = start.sharing_of(run.rows)
        order = RowOrder(len(run.rows), rows_per_step=run.plan.rows_per_step, seed=run.plan.seed)
        self._feed = Feed(run.rows, order=order, sharing=sharing, device=run.device, total_steps=total_steps)
        self._gradients = StepGradients(
            run,
            start.learner,
            start.masters,
            objective=start.objective,
            progress=progress,
            ladder=start.ladder,
            feed=self._feed,
        )
        self._start, self._sharing = start, sharing

    def run_to_end(self) -> TrainState:
        """Every step that is left; see `train`."""
        self._prepare()
        while not self._is_over():
            step = self._progress.step + 1
            self._pace.begin_step()
            sums = self._gradients.compute(step)
            if not sums.is_finite:
                raise self._not_finite(step, sums)
            learning_rate = learning_rate_at(step, plan=self._run.plan, total_steps=self._total_steps)
            self._masters.step(learning_rate=learning_rate)
            tokens_per_second = self._pace.end_step(tokens=sums.tokens)
            self._neighbours.look()
            self._advance(step, sums)
            point = self._points.of_step(
                sums,
                learning_rate=learning_rate,
                tokens_per_second=tokens_per_second,
                mfu=self._utilization.of_step(sums, tokens_per_second=tokens_per_second),
                remaining_seconds=self._remaining_seconds(),
            )
            if self._evaluator.is_due(step):
                point |= self._evaluate()
            self._run.recorder.metrics(**point)
            if self._schedule.is_due(step):
                self._checkpoints.save()
            if self._stop_requested() and not self._is_over():
                self._checkpoints.save()
                self._checkpoints.finish()
                raise Stopped
        self._checkpoints.finish()
        self._early_stopping.restore_best()
        return self._finished()

    def close(self) -> None:
        """End what runs beside the training."""
        self._feed.close()

    def _prepare(self) -> None:
        """The canary; what the untrained model does on the held-out rows, which training is measured against."""
        self._learner.train()
        run_canary(self._start, self._sharing)
        if self._progress.step == 0 and self._evaluator.is_due(0):
            self._run.recorder.metrics(**self._points.of_untrained_model() | self._evaluate())
        self._run.recorder.phase(Phase.TRAINING)
        self._neighbours.begin()

    def _is_over(self) -> bool:
        return self._progress.step >= self._total_steps or self._early_stopping.has_stalled()

    def _not_finite(self, step: int, sums: StepSums) -> JobFailure:
        """What to say of a step whose loss or gradient is no number; the checkpoint before it is finished first."""
        self._checkpoints.finish()
        lines = [str(self._run.rows.line_numbers[row]) for row in sums.rows[:LINES_NAMED]]
        kept = self._progress.last_good_checkpoint or "none yet"
        what = "gradient norm" if math.isfinite(sums.loss) else "loss"
        return JobFailure(
            Failure(
                code=ErrorCode.LOSS_IS_NOT_FINITE,
                message=(
                    f"The {what} at step {step} was not a finite number. Lines of the training file in this step: "
                    f"{', '.join(lines)}{' and more' if len(sums.rows) > LINES_NAMED else ''}. "
                    f"Last good checkpoint: {kept}."
                ),
                param="learning_rate",
                category=Category.USER_ERROR,
                hint="Lower the learning rate (a third of it is a good next try) and look at the lines named.",
            )
        )

    def _advance(self, step: int, sums: StepSums) -> None:
        """The step is done: checkpoints, metrics and the result count it."""
        self._progress.step = step
        self._progress.trained_tokens += sums.tokens
        self._progress.supervised_tokens += sums.supervised_tokens
        self._progress.last_train_loss = sums.loss

    def _remaining_seconds(self) -> float | None:
        step = self._progress.step
        return self._pace.remaining_seconds(self._total_steps - step, evaluations=self._evaluator.count_after(step))

    def _evaluate(self) -> dict[str, float]:
        """Evaluate now, and let early stopping know; returns what the step's point gets added."""
        with self._pace.evaluation():
            found = self._evaluator.evaluate()
            self._early_stopping.observe(found.loss)
        return self._points.of_evaluation(loss=found.loss, accuracy=found.accuracy)

    def _stop_requested(self) -> bool:
        """Agreed among processes: the file may appear between two looks at it, and all must leave at the same step."""
        return self._run.agree(self._run.directory.stop.exists())

    def _finished(self) -> TrainState:
        self._progress.others_share = self._neighbours.share()
        self._progress.mfu, self._progress.packs = self._utilization.mean(), self._learner.packs
        return self._progress


class StepGradients:
    """The gradients of one optimizer step, in as many micro-steps as memory allows.

    When memory runs out, the step is computed again from its start, with the same rows and the same random numbers, a
    rung lower on `ladder`. Where it stands, and what is learnt of the range of fp16, is kept in `progress`.
    """

    def __init__(
        self,
        run: RunContext,
        learner: Learner,
        masters: MasterOptimizer | ShardedOptimizer,
        *,
        objective: LossObjective,
        progress: TrainState,
        ladder: MemoryLadder,
        feed: Feed,
    ) -> None:
        self._run, self._learner, self._masters, self._objective = run, learner, masters, objective
        self._progress, self._ladder, self._feed = progress, ladder, feed
        self._lengths, self._supervised = run.rows.lengths(), run.rows.supervised_counts()
        self._loss_scale = LossScale(progress, precision=run.plan.precision)

    def compute(self, step: int) -> StepSums:
        """Leave the clipped gradient of the mean loss over the rows of a step in the masters.

        Raises:
            JobFailure: `out_of_memory`: even the last rung does not fit.
        """
        rows = self._feed.rows_of(step)
        before = random_state()

        def undo() -> None:
            self._masters.clear()
            restore_random_state(before)

        while True:
            totals = self._ladder.descend_until_it_fits(
                lambda: self._forward_and_backward(step, rows),
                doing=f"at step {step}",
                has_backward=True,
                meet=self._masters.sum_over_processes,
                undo=undo,
            )
            sums = self._summed_and_clipped(rows, totals)
            if self._loss_scale.accepts(sums):
                return sums
            undo()

    def _forward_and_backward(self, step: int, rows: list[int]) -> torch.Tensor:
        """This process's micro-steps; gradients add up in the masters. Returns summed loss and hits, fp64 [2].

        Each loss is divided by the units of the global batch, so that the sum over micro-steps and processes is the
        gradient of the mean.
        """
        scale = self._loss_scale.value / self._units(rows)
        totals = torch.zeros(2, dtype=torch.float64, device=self._run.device)
        for batch, counts, last in self._feed.batches(step, token_budget=self._progress.token_budget):
            sums = self._objective.sums(self._learner, batch)
            self._masters.backward(sums.loss * (counts * scale), last=last)
            totals += counts * torch.stack([sums.loss.detach(), sums.correct]).to(totals)
        return totals

    def _summed_and_clipped(self, rows: list[int], totals: torch.Tensor) -> StepSums:
        """The sums of all processes. Their gradients are summed already; here the loss scale comes out of them."""
        if self._run.processes > 1:
            torch.distributed.all_reduce(totals)
        self._loss_scale.take_out_of(self._masters.gradients())
        norm = self._masters.clip(self._run.plan.max_gradient_norm)
        units = self._units(rows)
        loss, correct = totals.tolist()
        return StepSums(
            rows=rows,
            loss=loss / units,
            norm=float(norm),
            correct=int(correct),
            units=units,
            supervised_tokens=int(self._supervised[rows].sum()),
            tokens=int(self._lengths[rows].sum()),
        )

    def _units(self, rows: list[int]) -> int:
        """What the loss of the global batch is a mean of: supervised tokens, or rows."""
        return int(self._supervised[rows].sum()) if self._objective.per_token else len(rows)
