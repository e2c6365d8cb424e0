"""The best weights so far, for runs that stop early: a copy in host memory that travels inside every checkpoint."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from worker.train.optimizer import MasterOptimizer

BEST_FILE = "best.safetensors"


class BestWeights:
    """Trainable weights (fp32) of the evaluation with the lowest validation loss, by their names in a checkpoint."""

    def __init__(self, masters: MasterOptimizer, *, file_key: Callable[[str], str]) -> None:
        self._masters, self._file_key = masters, file_key
        self._weights: dict[str, torch.Tensor] = {}

    def keep(self) -> None:
        """The weights as they are now are the best."""
        self._weights = {
            self._file_key(name): master.detach().to("cpu", copy=True).contiguous()
            for name, master in self._masters.masters.items()
        }

    def files(self) -> dict[str, dict[str, torch.Tensor]]:
        """What a checkpoint adds to be able to give them back; they are replaced as a whole, never changed in place."""
        return {BEST_FILE: self._weights} if self._weights else {}

    def load(self, folder: Path) -> None:
        """From the checkpoint that a run continues from."""
        if (folder / BEST_FILE).is_file():
            self._weights = load_file(folder / BEST_FILE)

    @torch.no_grad()
    def restore(self) -> None:
        """Make them the model's weights."""
        for name, master in self._masters.masters.items():
            master.copy_(self._weights[self._file_key(name)])
        self._masters.refresh_mirrors()
