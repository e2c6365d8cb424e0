"""Handing over what a run made: its output folder as the result, and its log whatever happened."""

import tempfile
from pathlib import Path
from typing import Any

from tunesmith.faults import Point, fault_point
from tunesmith.tuning.codes import ArtifactKind
from tunesmith.tuning.messages import ArtifactReport
from tunesmith.worker.run_directory import RunDirectory, TrainResult
from tunesmith.worker.trackers.tensorboard import write_event_files
from tunesmith.worker.trainer_process.log_file import scrubbed_copy
from tunesmith.worker.transport.blobs import file_ref
from tunesmith.worker.transport.control import AttemptControl


def upload_output(run: RunDirectory, result: TrainResult, control: AttemptControl) -> None:
    """Send every file of the output folder, then register them as one artifact of the result's kind.

    Raises:
        FileNotFoundError: the trainer left no output.
        LeaseLost, Unavailable, and what the control's check raises.
    """
    if result.output_kind is None or run.output.is_symlink() or not any(run.output.rglob("*")):
        raise FileNotFoundError(run.output)
    metadata = result.model_dump(mode="json", exclude={"failure", "output_kind"}, exclude_none=True)
    upload_folder(run.output, kind=result.output_kind, metadata=metadata, control=control)


def upload_log(run: RunDirectory, control: AttemptControl, *, secrets: tuple[str, ...], cap_bytes: int) -> None:
    """Send the end of the trainer's output, without secrets, as an artifact of kind `log`. Without output: none."""
    try:
        with tempfile.TemporaryDirectory(prefix="tunesmith-log-") as folder:  # out of the trainer's reach
            copy = Path(folder) / "log.txt"
            scrubbed_copy(run.log, copy, secrets=secrets, cap_bytes=cap_bytes)
            if copy.stat().st_size:
                upload_folder(Path(folder), kind=ArtifactKind.LOG, metadata={}, control=control)
    except OSError:  # no log, a link that a trainer has put in its place, or a full disk: the result outranks it
        return


def upload_curves(run: RunDirectory, control: AttemptControl) -> str | None:
    """Send the run's metrics as event files of TensorBoard; why there are none, or None where they were sent.

    Raises:
        LeaseLost, Unavailable, and what the control's check raises; a full disk is a reason, for a result outranks it.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="tunesmith-curves-") as folder:
            reason = write_event_files(run.metrics, Path(folder))
            if reason is None:
                upload_folder(Path(folder), kind=ArtifactKind.TENSORBOARD, metadata={}, control=control)
            return reason
    except OSError as error:
        return str(error)


def upload_folder(folder: Path, *, kind: ArtifactKind, metadata: dict[str, Any], control: AttemptControl) -> None:
    """Send all files below a folder under their relative names and register them."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    files = tuple(file_ref(path, name=path.relative_to(folder).as_posix()) for path in paths)
    for file, path in zip(files, paths, strict=True):
        control.upload(file, path)
    fault_point(Point.AFTER_UPLOAD)
    control.artifact(ArtifactReport(kind=kind, files=files, metadata=metadata))
