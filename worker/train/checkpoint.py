"""Checkpoints from which a run continues as if nothing had happened, and of which a torn one is never loaded.

A folder holds trainable weights (fp32), optimizer state, random states and the position in the data: safetensors and
JSON, no pickle. It is written aside by a thread, every file synced, `manifest.json` with the SHA-256 of each file
last, then renamed into place.
"""

import hashlib
import json
import os
import random
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tuning.errors import Category, Failure, JobFailure
from worker.rundir import CheckpointManifest, checkpoint_name, write_atomically
from worker.train import optimizer as optimizer_state
from worker.train.optimizer import MasterOptimizer
from worker.train.run import Run

KEEP = 3
STATE, RANDOM, MANIFEST = "state.json", "random.safetensors", "manifest.json"


@dataclass
class Progress:
    """Where a run stands, beside weights and optimizer: what the next step depends on or the result reports."""

    step: int = 0
    trained_tokens: int = 0
    supervised_tokens: int = 0
    token_budget: int = 0
    activation_checkpointing: str = ""
    loss_scale: float = 0.0
    training_seconds: float = 0.0
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


@dataclass(frozen=True)
class Snapshot:
    """A copy in host memory of everything a checkpoint holds, so that training goes on while it is written."""

    weights: dict[str, torch.Tensor]
    weights_file: str
    optimizer_tensors: dict[str, torch.Tensor]
    optimizer_scalars: dict[str, Any]
    random_tensors: dict[str, torch.Tensor]
    python_random: list[Any]
    progress: dict[str, Any]
    texts: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self.progress["step"])


def take_snapshot(
    masters: MasterOptimizer,
    progress: Progress,
    *,
    training_seconds: float,
    weights_file: str,
    file_key: Callable[[str], str],
    texts: dict[str, str],
    tensors: dict[str, dict[str, torch.Tensor]],
) -> Snapshot:
    """Copy the state of a run between two steps. `file_key` gives each weight its name in the file."""
    _, internal, gauss = random.getstate()
    return Snapshot(
        weights={file_key(name): _copy(master) for name, master in masters.masters.items()},
        weights_file=weights_file,
        optimizer_tensors={name: _copy(value) for name, value in masters.tensors().items()},
        optimizer_scalars=masters.scalars(),
        random_tensors=_random_tensors(),
        python_random=[list(internal), gauss],
        progress={**asdict(progress), "training_seconds": training_seconds},
        texts=texts,
        tensors=tensors,
    )


class CheckpointWriter:
    """Writes snapshots one after another in a thread. An error of the thread surfaces at the next call."""

    def __init__(self, folder: Path, *, versions: dict[str, str]) -> None:
        self._folder = folder
        self._versions = versions
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        for leftover in folder.glob(".step-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def write(self, snapshot: Snapshot, *, metrics: dict[str, float]) -> None:
        """Start writing; waits first for the one before."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(snapshot, metrics), name="checkpoint")
        self._thread.start()

    def wait(self, *, at_most_seconds: float | None = None) -> bool:
        """Return once the last snapshot is safely on disk, or false when the time is up.

        Raises:
            OSError: it could not be written, for example because the disk is full.
        """
        if self._thread is not None:
            self._thread.join(at_most_seconds)
            if self._thread.is_alive():
                return False
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return True

    def _run(self, snapshot: Snapshot, metrics: dict[str, float]) -> None:
        try:
            write_checkpoint(self._folder, snapshot, metrics=metrics, versions=self._versions)
            _remove_old(self._folder)
        except BaseException as error:
            self._error = error


def write_checkpoint(folder: Path, snapshot: Snapshot, *, metrics: dict[str, float], versions: dict[str, str]) -> Path:
    """Write one checkpoint into `folder`; it appears whole or not at all."""
    name = checkpoint_name(snapshot.step)
    aside, final = folder / f".{name}", folder / name
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        _write_files(aside, snapshot)
        files = {file.name: _seal(file) for file in sorted(aside.iterdir())}
        manifest = CheckpointManifest(step=snapshot.step, files=files, metrics=metrics, versions=versions)
        write_atomically(aside / MANIFEST, manifest.model_dump_json(indent=2))
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(final, ignore_errors=True)
    aside.rename(final)
    _sync(folder)
    return final


def verify(folder: Path) -> CheckpointManifest:
    """Check every file of a checkpoint against its manifest.

    Raises:
        JobFailure: `checkpoint_damaged` (retryable, for an older checkpoint may be whole) names the file.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise _damaged(folder, "it has no manifest")
    try:
        manifest = CheckpointManifest.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise _damaged(folder, "its manifest cannot be read") from error
    for name, facts in manifest.files.items():
        file = folder / name
        if Path(name).name != name or not file.is_file() or sha256_of(file) != facts["sha256"]:
            raise _damaged(folder, f"{name} is missing or altered")
    return manifest


def load_weights(folder: Path, masters: MasterOptimizer, *, weights_file: str, file_key: Callable[[str], str]) -> None:
    """Fill the masters.

    Raises:
        JobFailure: `checkpoint_of_another_plan` when names or shapes differ.
    """
    stored = load_file(folder / weights_file) if (folder / weights_file).is_file() else {}
    expected = {file_key(name): tuple(master.shape) for name, master in masters.masters.items()}
    if {name: tuple(value.shape) for name, value in stored.items()} != expected:
        raise JobFailure(
            Failure(
                code="checkpoint_of_another_plan",
                message=f"{folder.name} holds other trainable weights than this plan has.",
                category=Category.INTERNAL,
                hint="A checkpoint continues only under the method and adapter shape it was made with; start afresh.",
            )
        )
    with torch.no_grad():
        for name, master in masters.masters.items():
            master.copy_(stored[file_key(name)])


def load_progress(folder: Path) -> Progress:
    """Restore the random states; returns the position."""
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    internal, gauss = state["python_random"]
    random.setstate((3, tuple(internal), gauss))
    _restore_random_tensors(load_file(folder / RANDOM))
    return Progress(**state["progress"])


def resume_folder(run: Run) -> Path | None:
    """The checkpoint the worker named, or else the newest whole one of the run directory, or None to begin afresh."""
    named = run.request.resume_from
    return Path(named) if named else newest_whole(run.directory.checkpoints)


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint under `folder` that passes `verify`."""
    for candidate in sorted(folder.glob("step-*"), reverse=True):
        try:
            verify(candidate)
        except JobFailure:
            continue
        return candidate
    return None


def sha256_of(file: Path) -> str:
    """Hex digest of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def random_state() -> dict[str, torch.Tensor]:
    """Torch's random states, to put back before a step is tried again."""
    return _torch_random()


def restore_random_state(state: dict[str, torch.Tensor]) -> None:
    """Put `random_state` back."""
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


def _write_files(folder: Path, snapshot: Snapshot) -> None:
    save_file(snapshot.weights, folder / snapshot.weights_file)
    optimizer_state.save_state(folder, tensors=snapshot.optimizer_tensors, scalars=snapshot.optimizer_scalars)
    save_file(snapshot.random_tensors, folder / RANDOM)
    state = {"progress": snapshot.progress, "python_random": snapshot.python_random}
    (folder / STATE).write_text(json.dumps(state), encoding="utf-8")
    for name, text in snapshot.texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name, tensors in snapshot.tensors.items():
        save_file(tensors, folder / name)


def _seal(file: Path) -> dict[str, str | int]:
    """Sync a file to disk; returns its size and SHA-256."""
    _sync(file)
    return {"bytes": file.stat().st_size, "sha256": sha256_of(file)}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_old(folder: Path) -> None:
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)


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
            code="checkpoint_damaged",
            message=f"The checkpoint {folder.name} cannot be used: {problem}.",
            category=Category.TRANSIENT,
            retryable=True,
            hint="The run continues from the checkpoint before it.",
        )
    )
