"""The training loop: optimizer steps with evaluation, checkpoints, stop requests and recovery from lack of memory.

Everything a step does follows from (seed, step, weights, optimizer state, random state): a run resumed from a
checkpoint therefore continues as the undisturbed run would have, on a CPU to the last bit.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from tuning.errors import Category, Failure, JobFailure
from tuning.state import Phase
from worker.rundir import checkpoint_name
from worker.train import checkpoint as checkpoints
from worker.train.checkpoint import CheckpointWriter, Progress
from worker.train.data import Rows
from worker.train.evaluate import evaluate
from worker.train.failures import is_out_of_memory
from worker.train.model import Learner
from worker.train.objectives import Objective
from worker.train.optimizer import MasterOptimizer
from worker.train.packing import PackedBatch, pack, plan_micro_steps, rows_of_step, share_among, steps_per_epoch
from worker.train.recorder import Pace, peak_memory_bytes
from worker.train.run import Run
from worker.train.schedule import learning_rate_at

MAX_HALVINGS = 4


class Stopped(Exception):
    """The run was asked to stop and has a complete checkpoint."""


@dataclass(frozen=True)
class WeightFile:
    """How a method names its trainable weights in a checkpoint, and what small files it adds."""

    name: str
    key: Callable[[str], str] = str
    extra: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StepSums:
    """Sums over the global batch of one optimizer step; `loss` is already divided by the batch's units."""

    loss: float
    correct: int
    supervised_tokens: int
    tokens: int


def fit(run: Run, learner: Learner, *, objective: Objective, weight_file: WeightFile) -> Progress:
    """Train until the last step; returns where the run ended.

    Raises:
        Stopped: on request, with a checkpoint of the step reached.
        JobFailure: `loss_is_not_finite`, `out_of_memory`, or a failure to write.
    """
    return _Fit(run, learner, objective=objective, weight_file=weight_file).run_to_end()


def total_steps(run: Run) -> int:
    """The plan's steps, or fewer where rows had to be dropped."""
    per_epoch = steps_per_epoch(len(run.rows), rows_per_step=run.plan.rows_per_step)
    return min(run.plan.total_steps, per_epoch * run.plan.epochs)


class _Fit:
    def __init__(self, run: Run, learner: Learner, *, objective: Objective, weight_file: WeightFile) -> None:
        self._run, self._plan, self._learner, self._objective = run, run.plan, learner, objective
        self._weight_file = weight_file
        self._lengths = run.rows.lengths()
        self._supervised = run.rows.supervised_counts()
        self._total = total_steps(run)
        self._masters = MasterOptimizer(learner.trainable(), plan=run.plan)
        self._writer = CheckpointWriter(run.directory.checkpoints, versions=run.versions)
        self._pace = Pace()
        self._progress = Progress(token_budget=self._first_budget())
        self._resume()

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self._progress.step

    def run_to_end(self) -> Progress:
        """All remaining steps."""
        self._learner.train()
        if self.step == 0:
            self._record_start()
        self._run.recorder.phase(Phase.TRAINING)
        while self.step < self._total:
            self._one_step()
            if self._stop_requested() and self.step < self._total:
                self._checkpoint()
                self._writer.wait()
                raise Stopped
        self._writer.wait()
        self._progress.training_seconds += self._pace.training_seconds
        return self._progress

    def _one_step(self) -> None:
        self._pace.begin()
        step = self.step + 1
        chosen = rows_of_step(
            step, rows=len(self._run.rows), rows_per_step=self._plan.rows_per_step, seed=self._plan.seed
        )
        sums = self._gradients(chosen)
        self._reduce_gradients()
        norm = float(self._masters.clip(self._plan.max_gradient_norm))
        self._require_finite(step, chosen, loss=sums.loss, norm=norm)
        rate = learning_rate_at(step, plan=self._plan, total_steps=self._total)
        self._masters.step(learning_rate=rate)
        speed = self._pace.end(tokens=sums.tokens)
        self._advance(step, sums)
        point = self._point(step, sums, rate=rate, norm=norm, speed=speed)
        if self._run.validation_rows is not None and self._is_evaluation(step):
            point.update(self._evaluate(self._run.validation_rows))
        self._run.recorder.metrics(**point)
        if self._is_checkpoint(step):
            self._checkpoint()

    def _gradients(self, chosen: list[int]) -> StepSums:
        """Gradients of the step's mean loss; without memory for it, the same rows in micro-steps of half the tokens."""
        state = checkpoints.random_state()
        while True:
            try:
                return self._accumulate(chosen)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or not self._halve_budget():
                    raise
            self._masters.clear()
            if self._run.device.type == "cuda":
                torch.cuda.empty_cache()
            checkpoints.restore_random_state(state)

    def _accumulate(self, chosen: list[int]) -> StepSums:
        micro_steps = plan_micro_steps(chosen, self._lengths, token_budget=self._progress.token_budget)
        shares = share_among(micro_steps, self._lengths, processes=self._run.processes)
        supervised = int(self._supervised[chosen].sum())
        units = supervised if self._objective.per_token else len(chosen)
        loss = torch.zeros((), dtype=torch.float32, device=self._run.device)
        correct = torch.zeros((), dtype=torch.int64, device=self._run.device)
        for rows in shares[self._run.rank]:
            sums = self._objective.sums(self._learner, self._pack(rows))
            (sums.loss / units).backward()
            loss += sums.loss.detach() / units
            correct += sums.correct
        if self._run.processes > 1:
            torch.distributed.all_reduce(loss)
            torch.distributed.all_reduce(correct)
        tokens = int(self._lengths[chosen].sum())
        return StepSums(loss=float(loss), correct=int(correct), supervised_tokens=supervised, tokens=tokens)

    def _pack(self, rows: list[int]) -> PackedBatch:
        return pack(rows, self._run.rows, device=self._run.device)

    def _reduce_gradients(self) -> None:
        """Sum over processes: each divided by the global batch's units, so the sum is the mean's gradient."""
        if self._run.processes == 1:
            return
        for master in self._masters.masters.values():
            if master.grad is None:
                master.grad = torch.zeros_like(master)
            torch.distributed.all_reduce(master.grad)

    def _halve_budget(self) -> bool:
        longest = int(self._lengths.max())
        smallest = max(longest, self._first_budget() >> MAX_HALVINGS)
        if self._progress.token_budget <= smallest:
            return False
        self._progress.token_budget = max(smallest, self._progress.token_budget // 2)
        budget = self._progress.token_budget
        self._run.recorder.event(
            f"Memory ran out at step {self.step + 1}; going on with {budget} tokens per micro-step, which changes "
            "the speed but not the result.",
            level="warn",
            tokens_per_micro_step=budget,
            step=self.step + 1,
        )
        return True

    def _first_budget(self) -> int:
        return self._plan.tokens_per_micro_step * self._run.rows.sequences_per_row

    def _require_finite(self, step: int, chosen: list[int], *, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        self._writer.wait()
        lines = [int(self._run.rows.line_numbers[row]) for row in chosen[:8]]
        kept = self._progress.last_good_checkpoint or "none yet"
        what = "loss" if not math.isfinite(loss) else "gradient norm"
        raise JobFailure(
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

    def _point(self, step: int, sums: StepSums, *, rate: float, norm: float, speed: float) -> dict[str, Any]:
        per_epoch = steps_per_epoch(len(self._run.rows), rows_per_step=self._plan.rows_per_step)
        return {
            "step": step,
            "total_steps": self._total,
            "epoch": step / per_epoch,
            "train_loss": sums.loss,
            "train_mean_token_accuracy": sums.correct / max(1, sums.supervised_tokens),
            "learning_rate": rate,
            "grad_norm": norm,
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
            self._run.recorder.metrics(
                step=0,
                total_steps=self._total,
                epoch=0.0,
                **self._evaluate(self._run.validation_rows),
                time=time.time(),
            )

    def _evaluate(self, rows: Rows) -> dict[str, float]:
        self._run.recorder.phase(Phase.EVALUATING)
        result = evaluate(
            self._learner,
            rows,
            objective=self._objective,
            token_budget=self._progress.token_budget,
            device=self._run.device,
        )
        self._run.recorder.phase(Phase.TRAINING)
        progress = self._progress
        progress.last_valid_loss = result.loss
        if progress.first_valid_loss is None:
            progress.first_valid_loss = result.loss
        if progress.best_valid_loss is None or result.loss < progress.best_valid_loss:
            progress.best_valid_loss, progress.best_step = result.loss, progress.step
        return {"valid_loss": result.loss, "valid_mean_token_accuracy": result.accuracy}

    def _is_evaluation(self, step: int) -> bool:
        return step % self._plan.evaluation_interval_steps == 0 or step == self._total

    def _is_checkpoint(self, step: int) -> bool:
        return step % self._plan.checkpoint_interval_steps == 0 or step == self._total

    def _checkpoint(self) -> None:
        if not self._run.is_main:
            return
        self._writer.wait()
        self._progress.last_good_checkpoint = checkpoint_name(self.step)
        elapsed = self._progress.training_seconds + self._pace.training_seconds
        snapshot = checkpoints.take_snapshot(
            self._masters,
            self._progress,
            training_seconds=elapsed,
            weights_file=self._weight_file.name,
            file_key=self._weight_file.key,
            extra_files=self._weight_file.extra,
        )
        measured = {"train_loss": self._progress.last_train_loss, "valid_loss": self._progress.last_valid_loss}
        self._writer.write(snapshot, metrics={name: value for name, value in measured.items() if value is not None})

    def _stop_requested(self) -> bool:
        return self._run.directory.stop.exists()

    def _resume(self) -> None:
        """Continue from the checkpoint the worker named, or else from the newest whole one of this run directory."""
        named = self._run.request.resume_from
        folder = Path(named) if named else checkpoints.newest_whole(self._run.directory.checkpoints)
        if folder is None:
            return
        manifest = checkpoints.verify(folder)
        checkpoints.load_weights(
            folder, self._masters, weights_file=self._weight_file.name, file_key=self._weight_file.key
        )
        self._masters.load(folder)
        self._progress = checkpoints.load_progress(folder)
        self._progress.last_good_checkpoint = folder.name
        self._run.recorder.event(
            f"Continuing from the checkpoint of step {manifest.step} of {self._total}.", step=manifest.step
        )
