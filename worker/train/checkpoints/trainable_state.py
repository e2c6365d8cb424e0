"""What training has changed, weights and moments, on its way into a checkpoint and back, whole or shared out."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from tunesmith.worker.train.checkpoints import shards
from tunesmith.worker.train.checkpoints.state import another_plan
from tunesmith.worker.train.optim import optimizer as whole
from tunesmith.worker.train.optim.optimizer import MasterOptimizer
from tunesmith.worker.train.optim.zero import ShardedOptimizer


@dataclass(frozen=True)
class StateFile:
    """How a method names its trainable weights in a checkpoint, and what other files it adds, by their names."""

    name: str
    key: Callable[[str], str] = str
    texts: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)

    def with_tensors(self, name: str, values: dict[str, torch.Tensor]) -> "StateFile":
        """The same with one more file."""
        return replace(self, tensors={**self.tensors, name: values})


def tensor_files(
    masters: MasterOptimizer | ShardedOptimizer, file: StateFile, *, rank: int
) -> dict[str, dict[str, torch.Tensor]]:
    """What process `rank` adds to a checkpoint, by file name; nothing is copied."""
    if isinstance(masters, ShardedOptimizer):
        return {shards.shard_file(rank): shards.shard_tensors(masters)}
    if rank:
        return {}  # the first process has the same
    weights = {file.key(name): master.detach() for name, master in masters.masters.items()}
    return {file.name: weights, whole.TENSORS: masters.tensors()}


def text_files(masters: MasterOptimizer | ShardedOptimizer, file: StateFile) -> dict[str, str]:
    """The same for what is not a tensor, from the first process."""
    if isinstance(masters, ShardedOptimizer):
        return {**file.texts, shards.INDEX: shards.index_text(masters)}
    return {**file.texts, whole.SCALARS: json.dumps(masters.scalars())}


def load(folder: Path, masters: MasterOptimizer | ShardedOptimizer, file: StateFile) -> None:
    """Put weights and moments of a verified checkpoint back. Call it in every process.

    Raises:
        JobFailure: `checkpoint_of_another_plan` when names or shapes differ.
    """
    if isinstance(masters, ShardedOptimizer):
        shards.load_shards(folder, masters)
        return
    stored = load_file(folder / file.name) if (folder / file.name).is_file() else {}
    expected = {file.key(name): tuple(master.shape) for name, master in masters.masters.items()}
    if {name: tuple(value.shape) for name, value in stored.items()} != expected:
        raise another_plan(folder)
    with torch.no_grad():
        for name, master in masters.masters.items():
            master.copy_(stored[file.key(name)])
    masters.load(folder)
