"""Checkpoints as the worker handles them: never used unless every byte verifies, sent away while training goes on."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from tunesmith.faults import Point, fault_point
from tunesmith.tuning.errors import InvalidRequest, LeaseLost, NotFound, brief
from tunesmith.tuning.messages import CheckpointRef, CheckpointReport, EventReport, FileRef
from tunesmith.worker.attempt.stop_requests import OutOfTime, StopRequest, StopRequests
from tunesmith.worker.manifests import MANIFEST, CorruptCheckpoint, checkpoint_name, verify_checkpoint
from tunesmith.worker.transport.blobs import file_ref
from tunesmith.worker.transport.control import AttemptControl
from tunesmith.worker.work_directory import inside

_LONGEST_PAUSE_SECONDS = 30.0  # between two tries of an upload that fails


def find_resumable(
    choices: tuple[CheckpointRef, ...], *, earlier_runs: list[Path], target: Path, control: AttemptControl
) -> Path | None:
    """The newest checkpoint that verifies: a copy left by an earlier attempt on this host, or one fetched to `target`.

    A choice that cannot be used is passed over with an event in the job's history.

    Raises:
        LeaseLost, Unavailable, and what the control's check raises.
    """
    for choice in choices:
        local = _local_copy(choice, earlier_runs)
        if local is not None:
            return local
        try:
            return _fetch(choice, target / checkpoint_name(choice.step), control)
        except (CorruptCheckpoint, NotFound, ValueError) as problem:
            message = f"Checkpoint at step {choice.step} cannot be used and was passed over: {problem}"
            control.event(EventReport(level="warn", message=message, data={"step": choice.step}))
    return None


def _local_copy(choice: CheckpointRef, earlier_runs: list[Path]) -> Path | None:
    for run in earlier_runs:
        for parent in ("checkpoints", "resume"):
            folder = run / parent / checkpoint_name(choice.step)
            try:
                verify_checkpoint(folder, manifest_sha256=choice.manifest_sha256)
            except CorruptCheckpoint:
                continue
            return folder
    return None


def _fetch(choice: CheckpointRef, folder: Path, control: AttemptControl) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    for file in choice.files:
        control.download(file, inside(folder, file.name))
    verify_checkpoint(folder, manifest_sha256=choice.manifest_sha256)
    return folder


def describe(folder: Path) -> CheckpointReport:
    """The report that registers a checkpoint; its files are the manifest and everything the manifest names.

    Raises:
        CorruptCheckpoint: it does not verify.
    """
    manifest = verify_checkpoint(folder)
    files = [FileRef(name=name, **written.model_dump()) for name, written in manifest.files.items()]
    own = file_ref(folder / MANIFEST, name=MANIFEST)
    return CheckpointReport(
        step=manifest.step, manifest_sha256=own.sha256, files=(*files, own), metrics=manifest.metrics
    )


class CheckpointUploader:
    """Sends new checkpoints in the background. When several wait, only the newest goes: the others are already old.

    `recorded` tells the last step whose metrics the service has. A checkpoint waits for its own: were it registered
    first and the machine lost then, the next attempt would go on behind steps that nobody ever reported.
    """

    def __init__(
        self,
        folder: Path,
        control: AttemptControl,
        *,
        directives: StopRequests,
        log: FilteringBoundLogger,
        recorded: Callable[[], float] = lambda: float("inf"),
        interval_seconds: float = 0.5,
    ) -> None:
        self._folder = folder
        self._recorded = recorded
        self._control = control
        self._directives = directives
        self._log = log
        self._interval_seconds = interval_seconds
        self._sent: str = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="checkpoints", daemon=True)

    def start(self) -> None:
        """Begin to watch the folder."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; an upload under way ends at its next chunk."""
        self._stopped.set()
        self._thread.join(timeout=70)

    def flush(self, control: AttemptControl) -> None:
        """Send the newest checkpoint if it has not been sent. Call it after `stop`.

        Raises:
            LeaseLost, Unavailable, and what the control's check raises.
        """
        newest = self._newest(up_to_step=float("inf"))
        if newest is not None:
            self._send(newest, control)

    def _watch(self) -> None:
        control = self._control.patiently(self._check)
        pause_seconds = self._interval_seconds
        while not self._stopped.wait(pause_seconds):
            try:
                newest = self._newest(up_to_step=self._recorded())
                if newest is not None:
                    self._send(newest, control)
                pause_seconds = self._interval_seconds
            except LeaseLost:
                self._directives.tell(StopRequest.LEASE_LOST)
                return
            except (_Stopped, OutOfTime):
                return
            except Exception as error:  # whatever it was: without this thread no checkpoint would be saved elsewhere
                self._log.warning("checkpoint.waiting", error=brief(error))
                pause_seconds = min(pause_seconds * 2, _LONGEST_PAUSE_SECONDS)

    def _newest(self, *, up_to_step: float) -> Path | None:
        unsent = sorted(path for path in self._folder.glob("step-*") if path.name > self._sent)
        folders = [path for path in unsent if (step := _step(path)) is not None and step <= up_to_step]
        return folders[-1] if folders else None

    def _send(self, folder: Path, control: AttemptControl) -> None:
        """Upload every file and register the set; a folder that the trainer deletes meanwhile is skipped."""
        try:
            report = describe(folder)
            for file in report.files:
                control.upload(file, inside(folder, file.name))
            fault_point(Point.AFTER_UPLOAD)
            control.checkpoint(report)
            self._log.info("checkpoint.registered", step=report.step)
        except (CorruptCheckpoint, FileNotFoundError, InvalidRequest) as problem:
            self._log.warning("checkpoint.skipped", folder=folder.name, reason=str(problem))
        self._sent = max(self._sent, folder.name)

    def _check(self) -> None:
        self._directives.check_while_handing_over()
        if self._stopped.is_set():
            raise _Stopped


def _step(folder: Path) -> int | None:
    """None for a folder of another name, which a trainer may make too."""
    digits = folder.name.removeprefix("step-")
    return int(digits) if digits.isdecimal() and digits.isascii() else None


class _Stopped(Exception):
    """`stop` was called in the middle of an upload, which `flush` will make again."""
