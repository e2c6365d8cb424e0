"""What the model as it starts thinks of each preference pair: read once a job, shared among processes, and kept.

The numbers travel in every checkpoint under the hash of the rows that they belong to, so that a resumed run has them
without reading again.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed
from safetensors.torch import load_file

from tunesmith.worker.train.checkpoints.state import TrainState
from tunesmith.worker.train.data.packing import pack
from tunesmith.worker.train.data.rows import Rows
from tunesmith.worker.train.data.sharing import Sharing
from tunesmith.worker.train.loop.memory_ladder import MemoryLadder
from tunesmith.worker.train.loop.objectives import log_probabilities
from tunesmith.worker.train.models.model import Learner
from tunesmith.worker.train.run import RunContext

REFERENCE_FILE = "reference.safetensors"


@dataclass(frozen=True)
class Reader:
    """Reads rows with the model as it is now, in all processes at once."""

    run: RunContext
    learner: Learner
    sharing_of: Callable[[Rows], Sharing]
    ladder: MemoryLadder
    progress: TrainState


def with_reference(reader: Reader, *, kept_in: Path | None) -> tuple[RunContext, dict[str, torch.Tensor]]:
    """The run with scores in its rows, and what a checkpoint keeps of them: fp32 [rows, 2] by the hash of the rows.

    `kept_in` is a checkpoint that has been verified. Call it before any weight is loaded from there.

    Raises:
        JobFailure: `out_of_memory`.
    """
    run = reader.run
    known = load_file(kept_in / REFERENCE_FILE) if kept_in is not None and (kept_in / REFERENCE_FILE).is_file() else {}
    kept: dict[str, torch.Tensor] = {}

    def scored(rows: Rows) -> Rows:
        name = fingerprint(rows)
        if name not in kept:
            kept[name] = known[name] if name in known else _score(reader, rows)
        return replace(rows, reference=kept[name].numpy())

    held_out = run.validation_rows
    rows = scored(run.rows)
    return replace(run, rows=rows, validation_rows=None if held_out is None else scored(held_out)), kept


def fingerprint(rows: Rows) -> str:
    """SHA-256 of all tokens, marks and bounds."""
    digest = hashlib.sha256(f"{rows.sequences_per_row}".encode())
    for values in (rows.tokens, rows.supervised, rows.offsets):
        digest.update(values.data)
    return digest.hexdigest()


def _score(reader: Reader, rows: Rows) -> torch.Tensor:
    reader.run.recorder.event("Reading what the untrained model thinks of each preference pair.", rows=len(rows))
    sharing = reader.sharing_of(rows)
    scores = reader.ladder.descend_until_it_fits(
        lambda: _own_scores(reader, rows, sharing),
        doing="while reading what the untrained model thinks of each preference pair",
        has_backward=False,
    )
    if reader.run.processes > 1:
        torch.distributed.all_reduce(scores)  # one number and zeros: exact in any order
    return scores.cpu()


@torch.no_grad()
def _own_scores(reader: Reader, rows: Rows, sharing: Sharing) -> torch.Tensor:
    """Those of this process's share, zeros elsewhere: fp32 [rows, 2]."""
    reader.learner.eval()
    scores = torch.zeros(len(rows), 2, device=reader.run.device)
    for chosen, counts in sharing.passes(range(len(rows)), token_budget=reader.progress.token_budget):
        found = log_probabilities(reader.learner, pack(chosen, rows, device=reader.run.device))
        if counts:
            scores[torch.tensor(chosen)] = found
    return scores
