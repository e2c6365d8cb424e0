"""The writing of a checkpoint is cut at every byte: what is left is never taken, and the one before it is."""

import contextlib
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from tunesmith.worker.manifests import MANIFEST, checkpoint_name, verify_checkpoint
from tunesmith.worker.train.checkpoints.state import Snapshot, newest_whole
from tunesmith.worker.train.checkpoints.writer import CheckpointWriter, write_checkpoint

BEFORE, CUT = 4, 8  # steps


def snapshot(step: int) -> Snapshot:
    """So small that the manifest is the longest file, and a limit for all files cuts each of them at every byte."""
    return Snapshot(step, tensors={"optimizer.safetensors": {"m": torch.zeros(1)}}, texts={"state.json": "{}"})


def write(folder: Path, step: int) -> Path:
    return write_checkpoint(folder, snapshot(step), metrics={"valid_loss": 1.5}, versions={"torch": "2"}, processes=1)


@contextlib.contextmanager
def no_file_longer_than(most_bytes: int) -> Iterator[None]:
    """The kernel refuses to write more into any file of this process, in the middle of a write if need be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_killed_at(folder: Path, most_bytes: int) -> int:
    """Write in a process that the kernel kills at that byte; returns its status."""
    if (child := os.fork()) == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        with no_file_longer_than(most_bytes):
            write(folder, CUT)
        os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A checkpoint that was written in peace."""
    return write(tmp_path, BEFORE)


def sizes(checkpoint: Path) -> dict[str, int]:
    found = {file.name: file.stat().st_size for file in checkpoint.iterdir()}
    assert found[MANIFEST] == max(found.values())
    return found


def assert_only_the_one_before_is_there(whole: Path) -> None:
    assert newest_whole(whole.parent) == whole
    assert [path.name for path in whole.parent.glob("step-*")] == [whole.name]


def test_a_checkpoint_that_is_refused_at_any_byte_is_never_there_and_the_one_before_it_is(whole: Path) -> None:
    for most_bytes in range(sizes(whole)[MANIFEST]):
        with pytest.raises((OSError, SafetensorError)), no_file_longer_than(most_bytes):
            write(whole.parent, CUT)
        assert_only_the_one_before_is_there(whole)
    written = write(whole.parent, CUT)
    assert newest_whole(whole.parent) == written


def test_a_checkpoint_whose_writer_is_killed_at_a_byte_is_never_there_and_the_one_before_it_is(whole: Path) -> None:
    places = {place for size in sizes(whole).values() for place in (0, 1, size // 2, size - 1)}
    for most_bytes in sorted(places):
        assert write_killed_at(whole.parent, most_bytes) == signal.SIGXFSZ
        assert_only_the_one_before_is_there(whole)


def test_after_a_kill_the_next_try_writes_it_whole_and_leaves_nothing_else(whole: Path) -> None:
    write_killed_at(whole.parent, 100)
    assert list(whole.parent.glob(".*"))
    writer = CheckpointWriter(whole.parent, versions={})
    writer.write(snapshot(CUT), metrics={})
    assert writer.wait()
    assert verify_checkpoint(whole.parent / checkpoint_name(CUT)).step == CUT
    assert sorted(path.name for path in whole.parent.iterdir()) == [whole.name, checkpoint_name(CUT)]
