"""The training loop: optimizer steps with evaluation, checkpoints, stop requests and recovery from lack of memory.

Everything a step does follows from (seed, step, weights, optimizer state, random state): a run resumed from a
checkpoint therefore continues as the undisturbed run would have, on a CPU to the last bit.
"""

import math
import time
from contextlib import closing
from typing import Any

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Category, Failure, JobFailure
from tunesmith.tuning.metrics import METRICS
from tunesmith.tuning.recipe.hyperparameters import evaluation_count
from tunesmith.tuning.state import Phase
from tunesmith.worker.manifests import checkpoint_name
from tunesmith.worker.train.checkpoints import state as checkpoints
from tunesmith.worker.train.checkpoints import trainable_state as learned
from tunesmith.worker.train.checkpoints.cadence import CheckpointCadence
from tunesmith.worker.train.checkpoints.state import TrainState
from tunesmith.worker.train.checkpoints.trainable_state import StateFile
from tunesmith.worker.train.checkpoints.writer import CheckpointWriter
from tunesmith.worker.train.data.feed import Feed
from tunesmith.worker.train.data.order import RowOrder, steps_per_epoch
from tunesmith.worker.train.data.rows import Rows
from tunesmith.worker.train.data.sharing import Sharing
from tunesmith.worker.train.generation.samples import Samples
from tunesmith.worker.train.loop import canary
from tunesmith.worker.train.loop.evaluate import combined, own_sums
from tunesmith.worker.train.loop.gradients import GradientSource, StepSums
from tunesmith.worker.train.loop.objectives import LossObjective
from tunesmith.worker.train.loop.start import Start, start
from tunesmith.worker.train.models.model import Learner
from tunesmith.worker.train.optim.optimizer import MasterOptimizer
from tunesmith.worker.train.optim.schedule import learning_rate_at
from tunesmith.worker.train.optim.zero import ShardedOptimizer
from tunesmith.worker.train.profiling.neighbours import Neighbours
from tunesmith.worker.train.recorder import StepTimer, peak_memory_bytes
from tunesmith.worker.train.run import RunContext


class Stopped(Exception):
    """The run was asked to stop and has a complete checkpoint."""


def fit(
    run: RunContext,
    learner: Learner,
    *,
    masters: MasterOptimizer | ShardedOptimizer,
    objective: LossObjective,
    weight_file: StateFile,
) -> TrainState:
    """Train until the last step; returns where the run ended.

    Raises:
        Stopped: on request, with a checkpoint of the step reached.
        JobFailure: `loss_is_not_finite`, `out_of_memory`, or a failure to write.
    """
    begun = start(
        run, learner, masters=masters, objective=objective, weight_file=weight_file, total_steps=total_steps(run)
    )
    with closing(_Fit(begun)) as fitting:
        return fitting.run_to_end()


def total_steps(run: RunContext) -> int:
    """The plan's steps, or fewer where rows had to be dropped."""
    per_epoch = steps_per_epoch(len(run.rows), rows_per_step=run.plan.rows_per_step)
    return min(run.plan.total_steps, per_epoch * run.plan.epochs)


class _Fit:
    def __init__(self, begun: Start) -> None:
        run = self._run = begun.run
        self._plan, self._learner, self._masters = run.plan, begun.learner, begun.masters
        self._objective, self._weight_file, self._best = begun.objective, begun.weight_file, begun.best
        self._progress, self._ladder, self._utilization = begun.progress, begun.ladder, begun.utilization
        self._total = total_steps(run)
        self._writer = CheckpointWriter(
            run.directory.checkpoints, versions=run.versions, rank=run.rank, processes=run.processes
        )
        self._pace = StepTimer()
        self._seconds_before = self._progress.training_seconds
        self._evaluation_seconds_before = self._progress.evaluation_seconds
        self._cadence = CheckpointCadence(run, self._writer, self._progress)
        self._sharing = begun.sharing_of(run.rows)
        order = RowOrder(len(run.rows), rows_per_step=run.plan.rows_per_step, seed=run.plan.seed)
        self._feed = Feed(run.rows, order=order, sharing=self._sharing, device=run.device, total_steps=self._total)
        self._gradients = GradientSource(
            run,
            begun.learner,
            begun.masters,
            objective=begun.objective,
            progress=begun.progress,
            ladder=begun.ladder,
            feed=self._feed,
        )
        held_out = run.validation_rows
        self._held_out = None if held_out is None else (held_out, begun.sharing_of(held_out))
        self._samples = Samples(run)
        self._neighbours = Neighbours(run)

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self._progress.step

    def run_to_end(self) -> TrainState:
        """All remaining steps."""
        self._learner.train()
        self._rehearse()
        if self.step == 0:
            self._record_start()
        self._run.recorder.phase(Phase.TRAINING)
        self._neighbours.begin()
        while self.step < self._total and not self._has_stalled():
            self._one_step()
            if self._stop_requested() and self.step < self._total and not self._has_stalled():
                self._checkpoint()
                self._finish_checkpoint()
                raise Stopped
        self._finish_checkpoint()
        self._restore_best()
        self._progress.training_seconds = self._training_seconds()
        self._progress.others_share = self._neighbours.share()
        self._progress.mfu, self._progress.packs = self._utilization.mean(), self._learner.packs
        return self._progress

    def close(self) -> None:
        """End what runs beside the training."""
        self._feed.close()

    def _rehearse(self) -> None:
        """A canary first, unless the checkpoint or an equal run on this worker has tried these settings."""
        settings = canary.settings_of(self._plan)
        stage = canary.Stage(
            run=self._run,
            sharing=self._sharing,
            gradients=self._gradients,
            ladder=self._ladder,
            masters=self._masters,
            progress=self._progress,
            total_steps=self._total,
        )
        if self._progress.canary_of == settings or canary.is_spared(stage):
            return
        self._run.recorder.phase(Phase.CANARY)
        canary.rehearse(stage)
        self._progress.canary_of = settings

    def _one_step(self) -> None:
        self._pace.begin()
        step = self.step + 1
        sums = self._gradients.compute(step)
        if not sums.is_finite:
            raise self._not_finite(step, sums)
        rate = learning_rate_at(step, plan=self._plan, total_steps=self._total)
        self._masters.step(learning_rate=rate)
        speed = self._pace.end(tokens=sums.tokens)
        self._neighbours.look()
        self._advance(step, sums)
        point = self._point(step, sums, rate=rate, speed=speed)
        point["mfu"] = self._utilization.of_step(sums, tokens_per_second=speed)
        if self._held_out is not None and self._is_evaluation(step):
            point.update(self._evaluate(*self._held_out))
        self._run.recorder.metrics(**point)
        if step == self._total or self._cadence.is_time(step, training_seconds=self._training_seconds()):
            self._checkpoint()

    def _not_finite(self, step: int, sums: StepSums) -> JobFailure:
        self._finish_checkpoint()
        lines = [int(self._run.rows.line_numbers[row]) for row in sums.rows[:8]]
        kept = self._progress.last_good_checkpoint or "none yet"
        what = "gradient norm" if math.isfinite(sums.loss) else "loss"
        return JobFailure(
            Failure(
                code=ErrorCode.LOSS_IS_NOT_FINITE,
                message=(
                    f"The {what} at step {step} was not a finite number. Lines of the training file in this step: "
                    f"{', '.join(map(str, lines))}{' and more' if len(sums.rows) > 8 else ''}. "
                    f"Last good checkpoint: {kept}."
                ),
                param="learning_rate",
                category=Category.USER_ERROR,
                hint="Lower the learning rate (a third of it is a good next try) and look at the lines named.",
            )
        )

    def _advance(self, step: int, sums: StepSums) -> None:
        self._progress.step = step
        self._progress.trained_tokens += sums.tokens
        self._progress.supervised_tokens += sums.supervised_tokens
        self._progress.last_train_loss = sums.loss

    def _point(self, step: int, sums: StepSums, *, rate: float, speed: float) -> dict[str, Any]:
        per_epoch = steps_per_epoch(len(self._run.rows), rows_per_step=self._plan.rows_per_step)
        return {
            **dict.fromkeys(METRICS),
            "step": step,
            "total_steps": self._total,
            "epoch": step / per_epoch,
            "train_loss": sums.loss,
            f"train_{self._objective.accuracy}": sums.correct / max(1, sums.units),
            "learning_rate": rate,
            "grad_norm": sums.norm,
            "tokens_per_second": speed,
            "supervised_tokens": self._progress.supervised_tokens,
            "trained_tokens": self._progress.trained_tokens,
            "eta_seconds": self._pace.remaining_seconds(self._total - step, evaluations=self._evaluations_after(step)),
            "memory_bytes": peak_memory_bytes(self._run.device),
            "time": time.time(),
        }

    def _record_start(self) -> None:
        """What the untrained model does on the held-out rows: the number that training is measured against."""
        if self._held_out is not None:
            before = {"step": 0, "total_steps": self._total, "epoch": 0.0, "time": time.time()}
            self._run.recorder.metrics(**{**dict.fromkeys(METRICS), **before, **self._evaluate(*self._held_out)})

    def _evaluate(self, rows: Rows, sharing: Sharing) -> dict[str, float]:
        with self._pace.evaluating():
            found = self._evaluated(rows, sharing)
        self._progress.evaluation_seconds = self._evaluation_seconds_before + self._pace.evaluation_seconds
        return found

    def _evaluated(self, rows: Rows, sharing: Sharing) -> dict[str, float]:
        self._run.recorder.phase(Phase.EVALUATING)
        own = self._ladder.descend_until_it_fits(
            lambda: own_sums(
                self._learner,
                rows,
                objective=self._objective,
                sharing=sharing,
                token_budget=self._progress.token_budget,
                device=self._run.device,
            ),
            doing=f"while evaluating after step {self.step}",
            has_backward=False,
            undo=self._learn_on,
        )
        result = combined(own, processes=self._run.processes)
        is_at_an_end = self.step in (0, self._total)
        so_far = None if is_at_an_end else self._training_seconds()
        self._samples.record(self._learner, step=self.step, training_seconds=so_far)
        self._run.recorder.phase(Phase.TRAINING)
        self._compare(result.loss)
        return {"valid_loss": result.loss, f"valid_{self._objective.accuracy}": result.accuracy}

    def _compare(self, valid_loss: float) -> None:
        """With the best so far. The untrained model is what training is measured against, no result to go back to."""
        progress = self._progress
        progress.last_valid_loss = valid_loss
        if progress.first_valid_loss is None:
            progress.first_valid_loss = valid_loss
        if progress.step == 0:
            return
        if math.isfinite(valid_loss) and (progress.best_valid_loss is None or valid_loss < progress.best_valid_loss):
            progress.best_valid_loss, progress.best_step = valid_loss, progress.step
            progress.evaluations_since_best = 0
            if self._plan.early_stopping_patience:
                self._best.keep()
        else:
            progress.evaluations_since_best += 1

    def _learn_on(self) -> None:
        """An evaluation that was cut off has left dropout off."""
        self._learner.train()

    def _is_evaluation(self, step: int) -> bool:
        return step % self._plan.evaluation_interval_steps == 0 or step == self._total

    def _evaluations_after(self, done: int) -> int:
        """How many are still to come once step `done` and its own evaluation are over."""
        if self._held_out is None or done == self._total:
            return 0
        interval = self._plan.evaluation_interval_steps
        return evaluation_count(self._total, interval=interval) - 1 - done // interval

    def _training_seconds(self) -> float:
        """Spent in steps, by this process and the ones whose checkpoint it went on from."""
        return self._seconds_before + self._pace.training_seconds

    def _checkpoint(self) -> None:
        self._finish_checkpoint()
        self._progress.last_good_checkpoint = checkpoint_name(self.step)
        began = time.perf_counter()
        snapshot = checkpoints.take_snapshot(
            self._progress,
            rank=self._run.rank,
            training_seconds=self._training_seconds(),
            tensors=learned.tensor_files(self._masters, self._weight_file, rank=self._run.rank),
            unchanging={**(self._weight_file.tensors if self._run.is_main else {}), **self._best.files()},
            texts=learned.text_files(self._masters, self._weight_file),
        )
        self._cadence.note_copied(time.perf_counter() - began)
        measured = {"train_loss": self._progress.last_train_loss, "valid_loss": self._progress.last_valid_loss}
        self._writer.write(
            snapshot,
            metrics={name: value for name, value in measured.items() if value is not None},
        )

    def _finish_checkpoint(self) -> None:
        """Wait for the one being written. The main process first learns that all live: it waits for their parts."""
        if not self._run.is_main:
            self._writer.wait()
        self._run.barrier()
        self._writer.wait()

    def _stop_requested(self) -> bool:
        """Agreed among processes: the file may appear between two looks at it, and all must leave at the same step."""
        return self._run.agree(self._run.directory.stop.exists())

    def _has_stalled(self) -> bool:
        """Whether validation has not improved for as many evaluations as the plan is willing to wait."""
        patience = self._plan.early_stopping_patience
        return bool(patience) and self._progress.evaluations_since_best >= patience

    def _restore_best(self) -> None:
        """Under early stopping the result is the best weights seen, not the last."""
        progress = self._progress
        if not self._plan.early_stopping_patience or progress.best_valid_loss is None:
            return
        if self._has_stalled() and self.step < self._total:
            told = f"Stopped early at step {self.step} of {self._total}"
        else:
            told = f"Trained all {self._total} steps"
        if progress.first_valid_loss is not None and progress.best_valid_loss >= progress.first_valid_loss:
            told += f"; no evaluation was better than the untrained model's ({progress.first_valid_loss:.4f})"
        self._run.recorder.event(
            f"{told}. The result holds the weights of step {progress.best_step}, whose validation loss was the lowest "
            f"({progress.best_valid_loss:.4f}; at the end {progress.last_valid_loss:.4f}).",
            step=self.step,
            best_step=progress.best_step,
            best_valid_loss=progress.best_valid_loss,
            evaluations_since_best=progress.evaluations_since_best,
        )
        if progress.best_step != self.step:
            self._best.restore()
            progress.last_valid_loss = progress.best_valid_loss
