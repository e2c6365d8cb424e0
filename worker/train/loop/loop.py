"""The training loop: optimizer steps with evaluation, checkpoints, stop requests and recovery from lack of memory.

Everything a step does follows from (seed, step, weights, optimizer state, random state): a run resumed from a
checkpoint therefore continues as the undisturbed run would have, on a CPU to the last bit.
"""

import math
import time
from pathlib import Path
from typing import Any

from tuning.errors import Category, Failure, JobFailure
from tuning.metrics import METRICS
from tuning.state import Phase
from worker.rundir import checkpoint_name
from worker.train.checkpoints import state as checkpoints
from worker.train.checkpoints import trainable_state as learned
from worker.train.checkpoints.best import BestWeights
from worker.train.checkpoints.cadence import CheckpointCadence
from worker.train.checkpoints.state import Progress
from worker.train.checkpoints.trainable_state import WeightFile
from worker.train.checkpoints.writer import CheckpointWriter
from worker.train.data.packing import rows_of_step, steps_per_epoch
from worker.train.data.rows import Rows
from worker.train.generation.samples import Samples
from worker.train.loop import canary
from worker.train.loop.evaluate import evaluate
from worker.train.loop.gradients import GradientSource, StepSums
from worker.train.loop.memory_ladder import MemoryLadder
from worker.train.loop.objectives import Objective
from worker.train.loop.utilization import Utilization
from worker.train.models.model import Learner
from worker.train.optim.optimizer import MasterOptimizer
from worker.train.optim.schedule import learning_rate_at
from worker.train.optim.zero import ShardedOptimizer
from worker.train.recorder import Pace, peak_memory_bytes
from worker.train.run import Run


class Stopped(Exception):
    """The run was asked to stop and has a complete checkpoint."""


def fit(
    run: Run,
    learner: Learner,
    *,
    masters: MasterOptimizer | ShardedOptimizer,
    objective: Objective,
    weight_file: WeightFile,
) -> Progress:
    """Train until the last step; returns where the run ended.

    Raises:
        Stopped: on request, with a checkpoint of the step reached.
        JobFailure: `loss_is_not_finite`, `out_of_memory`, or a failure to write.
    """
    return _Fit(run, learner, masters=masters, objective=objective, weight_file=weight_file).run_to_end()


def total_steps(run: Run) -> int:
    """The plan's steps, or fewer where rows had to be dropped."""
    per_epoch = steps_per_epoch(len(run.rows), rows_per_step=run.plan.rows_per_step)
    return min(run.plan.total_steps, per_epoch * run.plan.epochs)


class _Fit:
    def __init__(
        self,
        run: Run,
        learner: Learner,
        *,
        masters: MasterOptimizer | ShardedOptimizer,
        objective: Objective,
        weight_file: WeightFile,
    ) -> None:
        self._run, self._plan, self._learner, self._objective = run, run.plan, learner, objective
        self._weight_file = weight_file
        self._total = total_steps(run)
        self._masters = masters
        self._writer = CheckpointWriter(
            run.directory.checkpoints, versions=run.versions, rank=run.rank, processes=run.processes
        )
        self._pace = Pace()
        self._best = BestWeights(masters, file_key=weight_file.key, rank=run.rank)
        self._progress = self._resumed() or Progress()
        self._ladder = MemoryLadder(run, learner, progress=self._progress, lockstep=masters.lockstep)
        self._gradients = GradientSource(
            run, learner, self._masters, objective=objective, progress=self._progress, ladder=self._ladder
        )
        self._seconds_before = self._progress.training_seconds
        self._cadence = CheckpointCadence(run, self._writer, self._progress)
        self._utilization = Utilization(run, learner)
        self._samples = Samples(run)

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self._progress.step

    def run_to_end(self) -> Progress:
        """All remaining steps."""
        self._learner.train()
        self._rehearse()
        if self.step == 0:
            self._record_start()
        self._run.recorder.phase(Phase.TRAINING)
        while self.step < self._total and not self._has_stalled():
            self._one_step()
            if self._stop_requested() and self.step < self._total and not self._has_stalled():
                self._checkpoint()
                self._finish_checkpoint()
                raise Stopped
        self._finish_checkpoint()
        self._restore_best()
        self._progress.training_seconds = self._training_seconds()
        self._progress.mfu = self._utilization.mean()
        return self._progress

    def _rehearse(self) -> None:
        """A canary first, unless the checkpoint or an equal run on this worker has tried these settings."""
        settings = canary.settings_of(self._plan)
        stage = canary.Stage(
            run=self._run,
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
        chosen = rows_of_step(
            step, rows=len(self._run.rows), rows_per_step=self._plan.rows_per_step, seed=self._plan.seed
        )
        sums = self._gradients.compute(chosen)
        if not sums.is_finite:
            raise self._not_finite(step, chosen, sums)
        rate = learning_rate_at(step, plan=self._plan, total_steps=self._total)
        self._masters.step(learning_rate=rate)
        speed = self._pace.end(tokens=sums.tokens)
        self._advance(step, sums)
        point = self._point(step, sums, rate=rate, speed=speed)
        point["mfu"] = self._utilization.of_step(chosen, sums, tokens_per_second=speed)
        if self._run.validation_rows is not None and self._is_evaluation(step):
            point.update(self._evaluate(self._run.validation_rows))
        self._run.recorder.metrics(**point)
        if step == self._total or self._cadence.is_time(step, training_seconds=self._training_seconds()):
            self._checkpoint()

    def _not_finite(self, step: int, chosen: list[int], sums: StepSums) -> JobFailure:
        self._finish_checkpoint()
        lines = [int(self._run.rows.line_numbers[row]) for row in chosen[:8]]
        kept = self._progress.last_good_checkpoint or "none yet"
        what = "gradient norm" if math.isfinite(sums.loss) else "loss"
        return JobFailure(
            Failure(
                code="loss_is_not_finite",
                message=(
                    f"The {what} at step {step} was not a finite number. Lines of the training file in this step: "
                    f"{', '.join(map(str, lines))}{' and more' if len(chosen) > 8 else ''}. "
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
            "eta_seconds": self._pace.remaining_seconds(self._total - step),
            "memory_bytes": peak_memory_bytes(self._run.device),
            "time": time.time(),
        }

    def _record_start(self) -> None:
        """What the untrained model does on the held-out rows: the number that training is measured against."""
        if self._run.validation_rows is not None:
            start = {"step": 0, "total_steps": self._total, "epoch": 0.0, "time": time.time()}
            self._run.recorder.metrics(
                **{**dict.fromkeys(METRICS), **start, **self._evaluate(self._run.validation_rows)}
            )

    def _evaluate(self, rows: Rows) -> dict[str, float]:
        self._run.recorder.phase(Phase.EVALUATING)
        result = self._ladder.fit(
            lambda: evaluate(
                self._learner,
                rows,
                objective=self._objective,
                token_budget=self._progress.token_budget,
                device=self._run.device,
            ),
            doing=f"while evaluating after step {self.step}",
            learns=False,
            undo=self._learn_on,
        )
        self._samples.record(self._learner, step=self.step)
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
        self._run.agree(False)
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

    def _resumed(self) -> Progress | None:
        folder = checkpoints.resume_folder(self._run)
        if folder is None:
            return None
        self._verify(folder)
        learned.load(folder, self._masters, self._weight_file)
        self._best.load(folder)
        progress = checkpoints.load_progress(folder, rank=self._run.rank)
        progress.last_good_checkpoint = folder.name
        self._run.recorder.event(
            f"Continuing from the checkpoint of step {progress.step} of {self._total}.", step=progress.step
        )
        return progress

    def _verify(self, folder: Path) -> None:
        """Once for all processes: none reads before the main one has found every file whole."""
        if self._run.is_main:
            checkpoints.verify(folder)
        self._run.agree(False)
