"""What the trainer of one run is shown: its own folder, what it was told to read, and the libraries that it runs on."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from tunesmith.tuning.codes import STACK_VARIABLE
from tunesmith.worker.run_directory import RunDirectory, TrainRequest
from tunesmith.worker.sandbox.choice import libraries
from tunesmith.worker.sandbox.definition import Kind, Sandbox

_MOST_OF_THE_DISK = 0.9
_LEAST_FILE_BYTES = 1024**2


def sandbox_of(
    run: RunDirectory,
    request: TrainRequest,
    *,
    kind: Kind,
    home: Path,
    work: Path,
    environment: Mapping[str, str] = os.environ,
) -> Sandbox:
    """The sandbox of one run. `home` is its project's; no other part of `work`, or of the stack around it, is shown."""
    other = request.against
    inputs = (
        *(request.model_dir, request.adapter_dir, request.resume_from, request.token_cache),
        *((other.model_dir, other.adapter_dir) if other is not None else ()),
    )
    stack = environment.get(STACK_VARIABLE)
    return Sandbox(
        kind=kind,
        readable=tuple(path for path in (*inputs, *libraries(environment)) if path),
        writable=(str(run.root), str(home)),
        hidden=tuple(path for path in (str(work), stack) if path),
        home=str(home),
        scratch=str(run.root / "scratch"),
        largest_file_bytes=_largest_file_bytes(run.root),
        talks=request.plan.world_size > 1,
    )


def _largest_file_bytes(folder: Path) -> int:
    """No file of a run may take the disk from everybody else."""
    return max(_LEAST_FILE_BYTES, int(shutil.disk_usage(folder).free * _MOST_OF_THE_DISK))
