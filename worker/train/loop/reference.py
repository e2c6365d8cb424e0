"""The reference pass of DPO: log-probabilities of the answers of each preference pair under the model as it starts.

It is made once a job and shared among processes. Its numbers travel in every checkpoint under the hash of the rows that
they belong to, so that a resumed run has them without another pass.
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
class ReferencePass:
    """Puts log-probabilities under the model as it is now into the rows of a run, in all of its processes at once."""

    run: RunContext
    learner: Learner
    sharing_of: Callable[[Rows], Sharing]
    ladder: MemoryLadder
    progress: TrainState

    def over_all_rows(self, *, checkpoint: Path | None) -> tuple[RunContext, dict[str, torch.Tensor]]:
        """The run with `reference` in its rows, and what checkpoints keep of it: fp32 [rows, 2] by the rows' hash.

        Call it before any weight is loaded from `checkpoint`, which is a verified one: numbers that it has kept for
        these very rows are taken from there.

        Raises:
            JobFailure: `out_of_memory`.
        """
        stored = _stored(checkpoint)
        kept: dict[str, torch.Tensor] = {}

        def with_reference(rows: Rows) -> Rows:
            name = fingerprint(rows)
            if name not in kept:
                kept[name] = stored[name] if name in stored else self.log_probabilities(rows)
            return replace(rows, reference=kept[name].numpy())

        held_out = self.run.validation_rows
        rows = with_reference(self.run.rows)
        held_out = None if held_out is None else with_reference(held_out)
        return replace(self.run, rows=rows, validation_rows=held_out), kept

    def log_probabilities(self, rows: Rows) -> torch.Tensor:
        """Of both answers of each row, those of all processes: fp32 [rows, 2], on the host."""
        self.run.recorder.event("Reading what the untrained model thinks of each preference pair.", rows=len(rows))
        sharing = self.sharing_of(rows)
        found = self.ladder.descend_until_it_fits(
            lambda: self._own_share(rows, sharing),
            doing="while reading what the untrained model thinks of each preference pair",
            has_backward=False,
        )
        if self.run.processes > 1:
            torch.distributed.all_reduce(found)  # one number and zeros: exact in any order
        return found.cpu()

    @torch.no_grad()
    def _own_share(self, rows: Rows, sharing: Sharing) -> torch.Tensor:
        """Those of the rows that this process computes, zeros elsewhere: fp32 [rows, 2]."""
        self.learner.eval()
        found = torch.zeros(len(rows), 2, device=self.run.device)
        for chosen, counts in sharing.passes(range(len(rows)), token_budget=self.progress.token_budget):
            of_batch = log_probabilities(self.learner, pack(chosen, rows, device=self.run.device))
            if counts:
                found[torch.tensor(chosen)] = of_batch
        return found


def fingerprint(rows: Rows) -> str:
    """SHA-256 of all tokens, loss masks and bounds of a set of rows."""
    digest = hashlib.sha256(f"{rows.sequences_per_row}".encode())
    for values in (rows.tokens, rows.supervised, rows.offsets):
        digest.update(values.data)
    return digest.hexdigest()


def _stored(checkpoint: Path | None) -> dict[str, torch.Tensor]:
    """What a checkpoint has kept, by the hash of the rows."""
    file = None if checkpoint is None else checkpoint / REFERENCE_FILE
    return load_file(file) if file is not None and file.is_file() else {}
