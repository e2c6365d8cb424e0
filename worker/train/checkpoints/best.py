"""The best weights so far, for runs that keep them: a copy in host memory that travels inside every checkpoint."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from tunesmith.worker.train.checkpoints import shards
from tunesmith.worker.train.optim.optimizer import MasterOptimizer
from tunesmith.worker.train.optim.zero import ShardedOptimizer

BEST_FILE, BEST_SHARD = "best.safetensors", "best"


class BestWeights:
    """Trainable weights (fp32) of the evaluation with the lowest validation loss, by their names in a checkpoint.

    Of a sharded run every process keeps what it owns.
    """

    def __init__(
        self, masters: MasterOptimizer | ShardedOptimizer, *, file_key: Callable[[str], str], rank: int
    ) -> None:
        self._masters, self._file_key, self._rank = masters, file_key, rank
        self._weights: dict[str, torch.Tensor] = {}

    def keep(self) -> None:
        """The weights as they are now are the best."""
        self._weights = {
            name: values.detach().to("cpu", copy=True).contiguous() for name, values in self._own().items()
        }

    def files(self) -> dict[str, dict[str, torch.Tensor]]:
        """What a checkpoint adds to be able to give them back; they are replaced as a whole, never changed in place."""
        if not self._weights:
            return {}
        if isinstance(self._masters, ShardedOptimizer):
            return {shards.shard_file(self._rank, kind=BEST_SHARD): self._weights}
        return {BEST_FILE: self._weights} if self._rank == 0 else {}

    def load(self, folder: Path) -> None:
        """From the checkpoint that a run continues from."""
        if isinstance(self._masters, ShardedOptimizer):
            self._weights = shards.load_masters(folder, self._masters, kind=BEST_SHARD)
        elif (folder / BEST_FILE).is_file():
            self._weights = load_file(folder / BEST_FILE)

    @torch.no_grad()
    def restore(self) -> None:
        """Make them the model's weights."""
        for name, values in self._own().items():
            values.copy_(self._weights[name])
        self._masters.refresh_mirrors()

    def _own(self) -> dict[str, torch.Tensor]:
        """The weights as they are now, not copied."""
        if isinstance(self._masters, ShardedOptimizer):
            return shards.own_masters(self._masters)
        return {self._file_key(name): master.detach() for name, master in self._masters.masters.items()}
