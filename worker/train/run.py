"""One training run as its parts see it: what was asked, where to write, the data, and the devices."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from transformers import PreTrainedTokenizerBase

from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Attention, Plan
from tunesmith.worker.run_directory import RunDirectory, TrainRequest
from tunesmith.worker.train.data.rows import Rows
from tunesmith.worker.train.recorder import Recorder


@dataclass(frozen=True)
class RunContext:
    """Everything a training method needs. `rank` and `processes` describe the process group; alone they are 0 and 1."""

    request: TrainRequest
    directory: RunDirectory
    recorder: Recorder
    shape: ModelShape  # of the base model
    tokenizer: PreTrainedTokenizerBase
    rows: Rows
    validation_rows: Rows | None
    device: torch.device
    versions: dict[str, str]
    attention: Attention  # the kernel that works here, which need not be the planned one
    rank: int = 0
    processes: int = 1

    @property
    def plan(self) -> Plan:
        """The decided numbers."""
        return self.request.plan

    @property
    def model_folder(self) -> Path:
        """The base model."""
        return Path(self.request.model_dir)

    @property
    def adapter_folder(self) -> Path | None:
        """The adapter to continue from."""
        return Path(self.request.adapter_dir) if self.request.adapter_dir else None

    def agree(self, wish: bool) -> bool:
        """Whether any process has the wish; all processes get the same answer."""
        if self.processes == 1:
            return wish
        votes = torch.tensor([int(wish)], device=self.device)
        torch.distributed.all_reduce(votes, op=torch.distributed.ReduceOp.MAX)
        return bool(votes.item())

    def barrier(self) -> None:
        """Return once every process of the run has called it."""
        self.agree(False)  # not torch's own, which under NCCL has to guess the GPU

    def from_main(self, number: int) -> int:
        """The main process's number, in all processes."""
        if self.processes == 1:
            return number
        told = torch.tensor([number], device=self.device)
        torch.distributed.broadcast(told, src=0)
        return int(told.item())

    def sum_of_all(self, number: float) -> float:
        """Of the numbers of all processes; they get the same answer."""
        return self._reduced(number, torch.distributed.ReduceOp.SUM)

    def highest_of_all(self, number: float) -> float:
        """The same of the highest."""
        return self._reduced(number, torch.distributed.ReduceOp.MAX)

    @property
    def is_main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def _reduced(self, number: float, operation: Any) -> float:
        if self.processes == 1:
            return number
        told = torch.tensor([number], dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(told, op=operation)
        return float(told.item())
