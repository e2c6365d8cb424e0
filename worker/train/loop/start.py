"""Where a run starts: afresh or from a checkpoint, with everything settled that its steps need."""

from dataclasses import dataclass, replace
from pathlib import Path

from tunesmith.worker.train.arithmetic import arithmetic_of, changed
from tunesmith.worker.train.checkpoints import state as checkpoints
from tunesmith.worker.train.checkpoints import trainable_state as learned
from tunesmith.worker.train.checkpoints.best import BestWeights
from tunesmith.worker.train.checkpoints.state import TrainState
from tunesmith.worker.train.checkpoints.trainable_state import StateFile
from tunesmith.worker.train.data.order import steps_per_epoch
from tunesmith.worker.train.data.rows import Rows
from tunesmith.worker.train.data.sharing import Sharing
from tunesmith.worker.train.loop.memory_ladder import MemoryLadder
from tunesmith.worker.train.loop.objectives import LossObjective
from tunesmith.worker.train.loop.reference import REFERENCE_FILE, ReferencePass
from tunesmith.worker.train.loop.utilization import Utilization
from tunesmith.worker.train.models.model import Learner
from tunesmith.worker.train.optim.optimizer import MasterOptimizer
from tunesmith.worker.train.optim.zero import ShardedOptimizer
from tunesmith.worker.train.run import RunContext


@dataclass(frozen=True)
class Start:
    """A run before its first step, or after the one that a checkpoint has reached."""

    run: RunContext
    learner: Learner
    masters: MasterOptimizer | ShardedOptimizer
    objective: LossObjective
    weight_file: StateFile
    best: BestWeights
    progress: TrainState
    ladder: MemoryLadder
    utilization: Utilization

    @property
    def total_steps(self) -> int:
        """The plan's steps, or fewer where rows had to be dropped."""
        plan = self.run.plan
        per_epoch = steps_per_epoch(len(self.run.rows), rows_per_step=plan.rows_per_step)
        return min(plan.total_steps, per_epoch * plan.epochs)

    def sharing_of(self, rows: Rows) -> Sharing:
        """How this process goes through a set of rows."""
        return Sharing(
            rows,
            work=self.utilization.work_of(rows),
            rank=self.run.rank,
            processes=self.run.processes,
            lockstep=self.masters.lockstep,
            together=self.learner.packs,
        )


def begin_or_resume(
    run: RunContext,
    learner: Learner,
    *,
    masters: MasterOptimizer | ShardedOptimizer,
    objective: LossObjective,
    weight_file: StateFile,
) -> Start:
    """Restore what the newest whole checkpoint holds, if there is one; under DPO make the reference pass before.

    Raises:
        JobFailure: `checkpoint_damaged`, `checkpoint_of_another_plan`, or `out_of_memory`.
    """
    checkpoint = _verified_checkpoint(run)
    progress = _position(run, checkpoint)
    start = Start(
        run=run,
        learner=learner,
        masters=masters,
        objective=objective,
        weight_file=weight_file,
        best=BestWeights(masters, file_key=weight_file.key, rank=run.rank),
        progress=progress,
        ladder=MemoryLadder(run, learner, progress=progress, lockstep=masters.lockstep),
        utilization=Utilization(run, learner),
    )
    if objective.needs_reference:  # by the first weights, before those of the checkpoint take their place
        start = _with_reference(start, checkpoint)
    if checkpoint is not None:
        learned.load(checkpoint, masters, start.weight_file)
        start.best.load(checkpoint)
        _tell_what_continues(start)
    return start


def _tell_what_continues(start: Start) -> None:
    """The promise of equal bytes holds for equal arithmetic: what another machine may change is said, not found out."""
    run, progress = start.run, start.progress
    told = f"Continuing from the checkpoint of step {progress.step} of {start.total_steps}."
    now = arithmetic_of(run.device)
    if others := changed(progress.computed_on, now):
        told += (
            f" Sums may differ in the last bit from here on, as this machine computes otherwise: {'; '.join(others)}."
        )
    progress.computed_on = now
    run.recorder.event(told, step=progress.step)


def _verified_checkpoint(run: RunContext) -> Path | None:
    """Once for all processes: none reads before the main one has found every file whole."""
    folder = checkpoints.resume_folder(run)
    if folder is not None and run.is_main:
        checkpoints.verify(folder)
    run.barrier()
    return folder


def _position(run: RunContext, checkpoint: Path | None) -> TrainState:
    """Where the steps begin, with this process's random numbers as they are to be there."""
    if checkpoint is None:
        checkpoints.draw_apart(seed=run.plan.seed, rank=run.rank, step=0)
        return TrainState(computed_on=arithmetic_of(run.device))
    progress = checkpoints.load_progress(checkpoint, seed=run.plan.seed, rank=run.rank)
    progress.last_good_checkpoint = checkpoint.name
    return progress


def _with_reference(start: Start, checkpoint: Path | None) -> Start:
    reference = ReferencePass(start.run, start.learner, start.sharing_of, start.ladder, start.progress)
    run, kept = reference.over_all_rows(checkpoint=checkpoint)
    return replace(start, run=run, weight_file=start.weight_file.with_tensors(REFERENCE_FILE, kept))
