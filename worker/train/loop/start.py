"""Where a run starts: afresh or from a checkpoint, with everything settled that its steps need."""

from dataclasses import dataclass, replace
from pathlib import Path

from tunesmith.worker.train.checkpoints import state as checkpoints
from tunesmith.worker.train.checkpoints import trainable_state as learned
from tunesmith.worker.train.checkpoints.best import BestWeights
from tunesmith.worker.train.checkpoints.state import TrainState
from tunesmith.worker.train.checkpoints.trainable_state import StateFile
from tunesmith.worker.train.data.rows import Rows
from tunesmith.worker.train.data.sharing import Sharing
from tunesmith.worker.train.loop.memory_ladder import MemoryLadder
from tunesmith.worker.train.loop.objectives import LossObjective
from tunesmith.worker.train.loop.reference import REFERENCE_FILE, Reader, with_reference
from tunesmith.worker.train.loop.utilization import Utilization
from tunesmith.worker.train.models.model import Learner
from tunesmith.worker.train.optim.optimizer import MasterOptimizer
from tunesmith.worker.train.optim.zero import ShardedOptimizer
from tunesmith.worker.train.run import RunContext


@dataclass(frozen=True)
class Start:
    """A run at its first step, or at the one that a checkpoint has reached."""

    run: RunContext
    learner: Learner
    masters: MasterOptimizer | ShardedOptimizer
    objective: LossObjective
    weight_file: StateFile
    best: BestWeights
    progress: TrainState
    ladder: MemoryLadder
    utilization: Utilization

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


def start(
    run: RunContext,
    learner: Learner,
    *,
    masters: MasterOptimizer | ShardedOptimizer,
    objective: LossObjective,
    weight_file: StateFile,
    total_steps: int,
) -> Start:
    """Restore what the newest whole checkpoint holds, if there is one.

    Raises:
        JobFailure: `checkpoint_damaged`, `checkpoint_of_another_plan`, or `out_of_memory`.
    """
    folder = _verified_folder(run)
    progress = _position(run, folder)
    begun = Start(
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
        begun = _with_reference(begun, folder)
    if folder is not None:
        learned.load(folder, masters, weight_file)
        begun.best.load(folder)
        told = f"Continuing from the checkpoint of step {progress.step} of {total_steps}."
        run.recorder.event(told, step=progress.step)
    return begun


def _verified_folder(run: RunContext) -> Path | None:
    """Once for all processes: none reads before the main one has found every file whole."""
    folder = checkpoints.resume_folder(run)
    if folder is not None and run.is_main:
        checkpoints.verify(folder)
    run.barrier()
    return folder


def _position(run: RunContext, folder: Path | None) -> TrainState:
    if folder is None:
        checkpoints.draw_apart(seed=run.plan.seed, rank=run.rank, step=0)
        return TrainState()
    progress = checkpoints.load_progress(folder, seed=run.plan.seed, rank=run.rank)
    progress.last_good_checkpoint = folder.name
    return progress


def _with_reference(begun: Start, folder: Path | None) -> Start:
    reader = Reader(begun.run, begun.learner, begun.sharing_of, begun.ladder, begun.progress)
    scored, kept = with_reference(reader, kept_in=folder)
    return replace(begun, run=scored, weight_file=begun.weight_file.with_tensors(REFERENCE_FILE, kept))
