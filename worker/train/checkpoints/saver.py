"""Taking checkpoints: training stands still while its state is copied, and goes on while the copy is written."""

import time
from collections.abc import Callable

from tunesmith.worker.manifests import checkpoint_name
from tunesmith.worker.train.checkpoints import trainable_state as learned
from tunesmith.worker.train.checkpoints.best import BestWeights
from tunesmith.worker.train.checkpoints.state import Snapshot, TrainState, take_snapshot
from tunesmith.worker.train.checkpoints.trainable_state import StateFile
from tunesmith.worker.train.checkpoints.writer import CheckpointWriter
from tunesmith.worker.train.optim.optimizer import MasterOptimizer
from tunesmith.worker.train.optim.zero import ShardedOptimizer
from tunesmith.worker.train.run import RunContext


class CheckpointSaver:
    """Takes the checkpoints of one run between two of its steps. All processes must call each method together."""

    def __init__(
        self,
        run: RunContext,
        masters: MasterOptimizer | ShardedOptimizer,
        *,
        weight_file: StateFile,
        best: BestWeights,
        progress: TrainState,
        writer: CheckpointWriter,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._run, self._masters, self._weight_file, self._best = run, masters, weight_file, best
        self._progress, self._writer, self._clock = progress, writer, clock

    def save(self) -> None:
        """Begin to write a checkpoint of the step that `progress` names, once the one before is on disk.

        Raises:
            OSError: the one before could not be written, for example because the disk is full.
            JobFailure: `checkpoint_part_missing`, of the one before.
        """
        self.finish()
        progress = self._progress
        progress.last_good_checkpoint = checkpoint_name(progress.step)
        began = self._clock()
        snapshot = self._snapshot()
        progress.checkpoint_stall_seconds += self._clock() - began
        measured = {"train_loss": progress.last_train_loss, "valid_loss": progress.last_valid_loss}
        self._writer.write(snapshot, metrics={name: value for name, value in measured.items() if value is not None})

    def finish(self) -> None:
        """Wait until the checkpoint that is being written is on disk, if there is one; raises as `save` does.

        The main process first learns that all live: it waits for their parts.
        """
        if not self._run.is_main:
            self._writer.wait()
        self._run.barrier()
        self._writer.wait()

    def _snapshot(self) -> Snapshot:
        rank = self._run.rank
        return take_snapshot(
            self._progress,
            rank=rank,
            tensors=learned.tensor_files(self._masters, self._weight_file, rank=rank),
            unchanging={**(self._weight_file.tensors if self._run.is_main else {}), **self._best.files()},
            texts=learned.text_files(self._masters, self._weight_file),
        )
