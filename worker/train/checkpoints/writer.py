"""Writing checkpoints while training goes on: aside, every file synced, the manifest last, then renamed into place.

Of several processes each writes its part into a folder of its own that appears by a rename; the main one collects the
parts, and no manifest exists before the last of them.
"""

import os
import shutil
import threading
import time
from pathlib import Path

from safetensors.torch import save_file

from tunesmith.faults import Point, fault_point
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Category, Failure, JobFailure
from tunesmith.worker.hashes import sha256_of
from tunesmith.worker.manifests import MANIFEST, CheckpointManifest, ManifestFile, checkpoint_name
from tunesmith.worker.run_directory import write_atomically
from tunesmith.worker.train.checkpoints.state import Snapshot

KEEP = 3
PART_SECONDS = 600.0
_POLL_SECONDS = 0.02


class CheckpointWriter:
    """Writes snapshots one after another in a thread. An error of the thread surfaces at the next call."""

    def __init__(self, folder: Path, *, versions: dict[str, str], rank: int = 0, processes: int = 1) -> None:
        self._folder, self._versions, self._rank, self._processes = folder, versions, rank, processes
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        for leftover in folder.glob(".step-*" if rank == 0 else f"{_part_prefix(rank)}*"):
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
            JobFailure: `checkpoint_part_missing`, on the main process.
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
            if self._rank:
                _write_part(self._folder, snapshot, rank=self._rank)
                return
            write_checkpoint(
                self._folder, snapshot, metrics=metrics, versions=self._versions, processes=self._processes
            )
            _remove_old(self._folder)
        except BaseException as error:
            self._error = error


def write_checkpoint(
    folder: Path, snapshot: Snapshot, *, metrics: dict[str, float], versions: dict[str, str], processes: int
) -> Path:
    """Write one checkpoint into `folder`, with the parts of other processes; it appears whole or not at all."""
    name = checkpoint_name(snapshot.step)
    aside, final = folder / f".{name}", folder / name
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        _write_files(aside, snapshot)
        for rank in range(1, processes):
            _collect(_part(folder, rank, name), into=aside, rank=rank)
        files = {file.name: _synced(file) for file in sorted(aside.iterdir())}
        manifest = CheckpointManifest(
            step=snapshot.step, files=files, metrics=metrics, world_size=processes, versions=versions
        )
        fault_point(Point.BEFORE_MANIFEST)
        write_atomically(aside / MANIFEST, manifest.model_dump_json(indent=2))
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(final, ignore_errors=True)
    aside.rename(final)
    fault_point(Point.AFTER_RENAME)
    _sync(folder)
    return final


def _write_part(folder: Path, snapshot: Snapshot, *, rank: int) -> None:
    part = _part(folder, rank, checkpoint_name(snapshot.step))
    aside = part.with_name(f"{part.name}.aside")
    for leftover in (aside, part):
        shutil.rmtree(leftover, ignore_errors=True)
    aside.mkdir(parents=True)
    _write_files(aside, snapshot)
    for file in aside.iterdir():
        _sync(file)
    aside.rename(part)


def _collect(part: Path, *, into: Path, rank: int) -> None:
    deadline = time.monotonic() + PART_SECONDS
    while not part.is_dir():
        # Where training has failed the main thread is gone, and the other process may be dead: nothing will come.
        if time.monotonic() > deadline or not threading.main_thread().is_alive():
            raise JobFailure(
                Failure(
                    code=ErrorCode.CHECKPOINT_PART_MISSING,
                    message=f"Process {rank} did not write its part of checkpoint {into.name.removeprefix('.')}.",
                    category=Category.INTERNAL,
                    retryable=True,
                    hint="All processes of a run need the same run directory, on several hosts a shared file system.",
                )
            )
        time.sleep(_POLL_SECONDS)
    for file in part.iterdir():
        file.rename(into / file.name)
    part.rmdir()


def _part(folder: Path, rank: int, name: str) -> Path:
    return folder / f"{_part_prefix(rank)}{name}"


def _part_prefix(rank: int) -> str:
    return f".part-{rank:05d}-"


def _write_files(folder: Path, snapshot: Snapshot) -> None:
    for name, tensors in snapshot.tensors.items():
        save_file(tensors, folder / name)
        fault_point(Point.INSIDE_CHECKPOINT)
    for name, text in snapshot.texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def _synced(file: Path) -> ManifestFile:
    """Sync a file to disk; returns its entry of the manifest."""
    _sync(file)
    return ManifestFile(bytes=file.stat().st_size, sha256=sha256_of(file))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_old(folder: Path) -> None:
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
