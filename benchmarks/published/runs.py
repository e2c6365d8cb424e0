"""The published runs of `runs.toml`, typed: what was run and published, and which runs constants are fitted to."""

import hashlib
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tunesmith.tuning.estimates.activations import Checkpointing
from tunesmith.tuning.estimates.memory import Optimizer
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.hardware_facts.gpus import what_if
from tunesmith.tuning.models.catalogue import find_shape
from tunesmith.tuning.models.linears import Targets
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.values.base import Value
from tunesmith.tuning.words import Method

FILE = Path(__file__).with_name("runs.toml")
HELD_OUT_SHARE = 0.4


class Stack(Value):
    """What a peer's code keeps in memory that ours does not, or the other way round."""

    logits: float = 0  # bytes for each token and word of the vocabulary while the loss is computed; 0: in chunks
    parameter: float | None = None  # bytes for each trainable parameter with gradient and optimizer; None: as ours
    gradient: float = 0  # bytes of `parameter` that come with the backward pass: no gradients are added up before it
    activation_tensors: int | None = None  # that an activation function without a gate keeps; None: as in transformers
    fused: bool = False  # compiled or with kernels of its own, so that it saves about what our own passes save
    repeats_heads: bool = False  # keys and values are repeated for each head of a group before attention
    four_bit_inputs: bool = False  # frozen 4-bit linears keep their inputs
    share_out_base: bool = False
    prefetches: bool = False  # FSDP, which gathers a whole layer while the one before it computes
    reserved: bool = False  # the figure is what the allocator reserved, with its slack
    counts_context: bool = False  # the figure holds the process's context too
    note: str = ""


class Run(Value):
    """One published run. `memory_gb` is the peak of one GPU in 1e9 bytes, `tokens_per_second` of the whole machine."""

    source: str
    stack: str
    basis: Literal["measured", "rounded"] = "measured"  # rounded: minima and estimates, left out of the statistics
    model: str
    machine: str
    method: Method
    rank: int = 0
    targets: Targets = "all-linear"
    dropout: float = 0.0
    double_quantization: bool = True
    optimizer: Optimizer = "adamw"
    zero_stage: Literal[0, 1, 2, 3] = 0
    recomputation: Checkpointing = "none"
    offloaded_activations: bool = False
    rows: int = Field(gt=0)  # of one GPU in a micro-step
    row_tokens: int = Field(gt=0)
    real_share: float = Field(default=1.0, gt=0, le=1)  # of the tokens computed; the rest is padding, not published
    accumulation: int = 1  # micro-steps of an optimizer step
    read: bool = False  # recomputation, rank and targets stand in the source's own files
    memory_gb: float | None = Field(default=None, gt=0)
    tokens_per_second: float | None = Field(default=None, gt=0)
    reason: str = ""

    @property
    def name(self) -> str:
        """What tells it apart from all others."""
        rank = f" r{self.rank}" if self.rank else ""
        remade = "" if self.recomputation == "none" else f" {self.recomputation}"
        scales = "" if self.double_quantization else " plain"
        return (
            f"{self.source}/{self.stack}: {self.model} {self.method.value}{scales}{rank} "
            f"{self.rows}x{self.row_tokens}{remade} on {self.machine}"
        )

    @property
    def is_held_out(self) -> bool:
        """Constants are fitted to the others alone; by a hash of the name, so that nobody chooses."""
        digest = hashlib.sha256(self.name.encode()).digest()
        return digest[0] / 256 < HELD_OUT_SHARE

    @property
    def hardware(self) -> HardwareProfile:
        """The machine, idle."""
        return what_if(self.machine)


class Book(Value):
    """All of the file."""

    sources: dict[str, str]
    stacks: dict[str, Stack]
    models: dict[str, dict[str, Any]]
    runs: tuple[Run, ...]

    def shape(self, run: Run) -> ModelShape:
        """Of the run's model, which the catalogue or the file knows."""
        return ModelShape.from_config(self.models[run.model]) if run.model in self.models else find_shape(run.model)

    def stack(self, run: Run) -> Stack:
        """What the run's peer does otherwise."""
        return self.stacks[run.stack]


@cache
def book() -> Book:
    """The file's runs, each with the fields of its group.

    Raises:
        pydantic.ValidationError: the file is wrong.
    """
    read = tomllib.loads(FILE.read_text(encoding="utf-8"))
    runs = [{**group, **run} for group in read.pop("group") for run in group["runs"]]
    for run in runs:
        del run["runs"]
        if isinstance(run.get("targets"), list):
            run["targets"] = tuple(run["targets"])
    return Book.model_validate({**read, "runs": runs})
