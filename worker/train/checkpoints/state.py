"""Checkpoints from which a run continues as if nothing had happened, and of which a torn one is never loaded.

A folder holds trainable weights (fp32), optimizer state, random states and the position in the data: safetensors and
JSON, no pickle. How it is written: `worker.train.checkpoints.writer`.
"""

import hashlib
import json
import random
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Category, Failure, JobFailure
from tunesmith.worker.manifests import CheckpointManifest, CorruptCheckpoint, checkpoint_name, verify_checkpoint
from tunesmith.worker.train.run import RunContext

STATE, RANDOM = "state.json", "random.safetensors"


@dataclass
class TrainState:
    """Where a run stands, beside weights and optimizer: what the next step depends on or the result reports."""

    step: int = 0
    trained_tokens: int = 0
    supervised_tokens: int = 0
    token_budget: int = 0
    activation_checkpointing: str = ""
    loss_scale: float = 0.0
    good_steps_at_loss_scale: int = 0
    training_seconds: float = 0.0
    evaluation_seconds: float = 0.0  # beside them, with sample answers
    checkpoint_stall_seconds: float = 0.0  # that training stood still to copy its state, or waited for the writer
    first_valid_loss: float | None = None
    last_valid_loss: float | None = None
    best_valid_loss: float | None = None
    best_step: int = 0
    evaluations_since_best: int = 0
    last_train_loss: float | None = None
    last_good_checkpoint: str | None = None
    canary_of: str | None = None  # the launch settings that a canary has tried
    mfu: float | None = None
    others_share: float | None = None  # of the machine, that others used while this process trained
    packs: bool = False
    computed_on: dict[str, Any] = field(default_factory=dict)  # the machine of the last steps, see `arithmetic_of`


@dataclass(frozen=True)
class Snapshot:
    """A copy in host memory of what one process puts into a checkpoint, so that training goes on while it is written.

    tensors: values by name, by the name of their safetensors file; texts: contents of other files by name.
    """

    step: int
    tensors: dict[str, dict[str, torch.Tensor]]
    texts: dict[str, str] = field(default_factory=dict)


def take_snapshot(
    progress: TrainState,
    *,
    rank: int,
    tensors: dict[str, dict[str, torch.Tensor]],
    unchanging: dict[str, dict[str, torch.Tensor]],
    texts: dict[str, str],
) -> Snapshot:
    """Copy the state of a process between two steps; what is `unchanging` is taken as it is.

    Its random states are its own, the position is everybody's.
    """
    copies = {file: {name: _copy(value) for name, value in values.items()} for file, values in tensors.items()}
    copies |= {_random_file(rank): _random_tensors(), **unchanging}
    if rank:
        return Snapshot(step=progress.step, tensors=copies)
    _, internal, gauss = random.getstate()
    state = json.dumps({"progress": asdict(progress), "python_random": [list(internal), gauss]})
    return Snapshot(step=progress.step, tensors=copies, texts={**texts, STATE: state})


def verify(folder: Path) -> CheckpointManifest:
    """Check every file of a checkpoint against its manifest.

    Raises:
        JobFailure: `checkpoint_damaged` (retryable, for an older checkpoint may be whole) names the file.
    """
    try:
        return verify_checkpoint(folder)
    except CorruptCheckpoint as problem:
        raise _damaged(folder, str(problem)) from problem


def another_plan(folder: Path) -> JobFailure:
    """The error for a checkpoint whose weights are not those that this plan trains."""
    return JobFailure(
        Failure(
            code=ErrorCode.CHECKPOINT_OF_ANOTHER_PLAN,
            message=f"{folder.name} holds other trainable weights than this plan has.",
            category=Category.INTERNAL,
            hint="A checkpoint continues only under the method and adapter shape it was made with; start afresh.",
        )
    )


def draw_apart(*, seed: int, rank: int, step: int) -> None:
    """Give a process random numbers of its own from `step` on, so that no two drop the same units; the first keeps its.

    Call it after all that must be equal everywhere has been drawn.
    """
    if rank:
        own = hashlib.sha256(f"{seed}:{rank}:{step}".encode()).digest()
        torch.manual_seed(int.from_bytes(own[:7], "big"))


def load_progress(folder: Path, *, seed: int, rank: int = 0) -> TrainState:
    """Restore the random states; returns the position. A process unknown to the checkpoint draws numbers of its own."""
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    internal, gauss = state["python_random"]
    random.setstate((3, tuple(internal), gauss))
    own = folder / _random_file(rank)
    _restore_random_tensors(load_file(own if own.is_file() else folder / RANDOM))
    progress = TrainState(**state["progress"])
    if not own.is_file():
        draw_apart(seed=seed, rank=rank, step=progress.step)
    return progress


def resume_folder(run: RunContext) -> Path | None:
    """The checkpoint the worker named, or else the newest whole one of the run directory, or None to begin afresh.

    Of several processes the main one looks, and all go on from what it found.
    """
    named = run.request.resume_from
    if named:
        return Path(named)
    newest = newest_whole(run.directory.checkpoints) if run.is_main else None
    step = run.from_main(-1 if newest is None else int(newest.name.removeprefix("step-")))
    return None if step < 0 else run.directory.checkpoints / checkpoint_name(step)


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint under `folder` that passes `verify_checkpoint`."""
    for candidate in sorted(folder.glob("step-*"), reverse=True):
        try:
            verify_checkpoint(candidate)
        except CorruptCheckpoint:
            continue
        return candidate
    return None


def random_state() -> dict[str, torch.Tensor]:
    """Torch's random states, to put back before a step is tried again."""
    return _torch_random()


def restore_random_state(state: dict[str, torch.Tensor]) -> None:
    """Put `random_state` back."""
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


def _random_file(rank: int) -> str:
    return f"random-{rank:05d}.safetensors" if rank else RANDOM


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    copy = tensor.detach().to("cpu", copy=True)
    return copy.contiguous()


def _torch_random() -> dict[str, torch.Tensor]:
    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _random_tensors() -> dict[str, torch.Tensor]:
    _, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        **_torch_random(),
        "numpy_keys": torch.from_numpy(np.asarray(keys, dtype=np.uint32).astype(np.int64)),
        "numpy_rest": torch.tensor([float(position), float(has_gauss), float(gauss)], dtype=torch.float64),
    }


def _restore_random_tensors(tensors: dict[str, torch.Tensor]) -> None:
    position, has_gauss, gauss = tensors["numpy_rest"].tolist()
    keys = tensors["numpy_keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), gauss))
    if not torch.cuda.is_available():
        tensors.pop("cuda", None)
    restore_random_state(tensors)


def _damaged(folder: Path, problem: str) -> JobFailure:
    return JobFailure(
        Failure(
            code=ErrorCode.CHECKPOINT_DAMAGED,
            message=f"The checkpoint {folder.name} cannot be used: {problem}.",
            category=Category.TRANSIENT,
            retryable=True,
            hint="The run continues from the checkpoint before it.",
        )
    )
