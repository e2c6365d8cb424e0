"""What each process of a sharded run puts into a checkpoint, and how any number of processes reads it back.

A shard holds pieces of flattened parameters, named `<parameter>:<first element>:<field>`. A process picks what it owns
out of all shards, so that a checkpoint fits another number of processes and another stage too.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open

from tunesmith.worker.train.checkpoints.state import another_plan
from tunesmith.worker.train.optim.zero import ShardedOptimizer

INDEX, MASTER = "shards.json", "master"


class _Piece(NamedTuple):
    start: int
    length: int
    shard: safe_open
    key: str


def shard_file(rank: int, *, kind: str = "shard") -> str:
    """Name of a process's file."""
    return f"{kind}-{rank:05d}.safetensors"


def shard_tensors(optimizer: ShardedOptimizer) -> dict[str, torch.Tensor]:
    """Everything this process owns, not copied."""
    return {
        f"{name}:{start}:{field}": values
        for name, start, master, moments in optimizer.fragments()
        for field, values in {MASTER: master, **moments}.items()
    }


def own_masters(optimizer: ShardedOptimizer) -> dict[str, torch.Tensor]:
    """This process's pieces of the weights alone, not copied."""
    return {f"{name}:{start}:{MASTER}": master for name, start, master, _ in optimizer.fragments()}


def load_masters(folder: Path, optimizer: ShardedOptimizer, *, kind: str) -> dict[str, torch.Tensor]:
    """`own_masters` as the files of one kind have them; empty where there are none.

    Raises:
        JobFailure: `checkpoint_of_another_plan`.
    """
    with ExitStack() as stack:
        pieces = _pieces(folder, stack, kind=kind)
        if not pieces:
            return {}
        own = {}
        for name, start, master, _ in optimizer.fragments():
            values = own[f"{name}:{start}:{MASTER}"] = torch.empty(len(master))
            _fill(values, start=start, pieces=pieces.get((name, MASTER), []), folder=folder)
        return own


def index_text(optimizer: ShardedOptimizer) -> str:
    """What a reader must know beside the shards: whole shapes, and how many updates the moments have seen."""
    shapes = {name: list(shape) for name, shape in optimizer.shapes().items()}
    return json.dumps({"updates": optimizer.updates(), "shapes": shapes})


@torch.no_grad()
def load_shards(folder: Path, optimizer: ShardedOptimizer) -> None:
    """Fill masters and moments, and round the masters into the model. Call it in every process.

    Raises:
        JobFailure: `checkpoint_of_another_plan`.
    """
    index = json.loads((folder / INDEX).read_text(encoding="utf-8")) if (folder / INDEX).is_file() else {}
    if index.get("shapes") != {name: list(shape) for name, shape in optimizer.shapes().items()}:
        raise another_plan(folder)
    if index["updates"]:
        optimizer.restore_moments(index["updates"])
    with ExitStack() as stack:
        pieces = _pieces(folder, stack, kind="shard")
        for name, start, master, moments in optimizer.fragments():
            for field, values in {MASTER: master, **moments}.items():
                _fill(values, start=start, pieces=pieces.get((name, field), []), folder=folder)
    optimizer.refresh_mirrors()


def _pieces(folder: Path, stack: ExitStack, *, kind: str) -> dict[tuple[str, str], list[_Piece]]:
    """All pieces of all shards by parameter and field."""
    found: dict[tuple[str, str], list[_Piece]] = {}
    for file in sorted(folder.glob(f"{kind}-*.safetensors")):
        shard = stack.enter_context(safe_open(file, framework="pt"))
        for key in shard.keys():  # noqa: SIM118 - not a dictionary
            name, start, field = key.rsplit(":", 2)
            (length,) = shard.get_slice(key).get_shape()
            found.setdefault((name, field), []).append(_Piece(int(start), length, shard, key))
    return found


def _fill(values: torch.Tensor, *, start: int, pieces: list[_Piece], folder: Path) -> None:
    end, filled = start + len(values), 0
    for piece, first, last in _overlaps(pieces, start, end):
        stored = piece.shard.get_slice(piece.key)[first - piece.start : last - piece.start]
        values[first - start : last - start].copy_(stored)
        filled += last - first
    if filled != len(values):
        raise another_plan(folder)


def _overlaps(pieces: list[_Piece], start: int, end: int) -> Iterator[tuple[_Piece, int, int]]:
    for piece in pieces:
        first, last = max(start, piece.start), min(end, piece.start + piece.length)
        if first < last:
            yield piece, first, last
