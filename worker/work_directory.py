"""The worker's own folder: who it is, its lock, and where runs, models and slot locks lie.

lock              held by the worker's main process: one worker to a folder
worker-id         made once, kept for ever: the same machine is the same worker after a restart
session.json      this start of the worker, read by its pool processes
alive             touched at each heartbeat that the service has answered
draining          there while the worker is on its way out; holds the moment by which it must be gone
constants.json    what this machine measured about itself
slots/            lock files of CPU slots; those of GPUs are the host's (worker/machine/slots.py)
trainers/         one record to a running trainer, so that a later start can end what an earlier one left
runs/JOB/ATTEMPT/ run directories; runs/JOB is locked while an attempt of the job is at work
models/DIGEST/    base models, shared by all jobs
tokens/PROJECT/   tokenised rows, shared by the jobs of a project
adapters/DIGEST/  adapters that were served, as many as their limit allows
serving/          logs and folders of the engines that serve; serving.lock is held by their gateway
homes/PROJECT/    the HOME of a project's trainers: kernels that they compiled; empty after a start
"""

import contextlib
import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import TunesmithError
from tunesmith.tuning.values.base import Value
from tunesmith.tuning.values.hashes import sha256_of_text
from tunesmith.worker.run_directory import write_atomically

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


class WorkDirectoryInUse(TunesmithError):
    """Another worker process holds this folder."""

    code = ErrorCode.WORK_DIR_IN_USE


class WorkerSession(Value):
    """One start of the worker process. The service ends the attempts of an earlier incarnation."""

    worker_id: str
    incarnation: str
    worker_class: str
    name: str


class WorkDirectory:
    """Paths below one folder, and the few files that are about the worker itself."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.slots = self.root / "slots"
        self.trainers = self.root / "trainers"
        self.runs = self.root / "runs"
        self.models = self.root / "models"
        self.tokens = self.root / "tokens"
        self.homes = self.root / "homes"
        self.adapters = self.root / "adapters"
        self.serving = self.root / "serving"
        self.constants = self.root / "constants.json"
        self._session = self.root / "session.json"
        self.alive = self.root / "alive"
        self._draining = self.root / "draining"

    def create(self) -> None:
        """Make the folders; only their owner may look inside, because training data lies there."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        folders = (
            self.slots,
            self.trainers,
            self.runs,
            self.models,
            self.tokens,
            self.homes,
            self.adapters,
            self.serving,
        )
        for folder in folders:
            folder.mkdir(exist_ok=True)

    def lock(self, name: str = "lock") -> IO[str]:
        """Take the folder for this process; it is free again when the returned file is closed or the process ends.

        By another name it is taken to serve from, which one process may beside the worker.

        Raises:
            WorkDirectoryInUse: another worker has it.
        """
        holder = (self.root / name).open("a+")
        try:
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder.seek(0)
            pid = holder.read().strip() or "unknown"
            holder.close()
            raise WorkDirectoryInUse(
                f"The work directory {self.root} is in use by another worker (process {pid}).",
                param="TUNESMITH_WORK_DIR",
                hint="Give each worker on a host its own TUNESMITH_WORK_DIR.",
            ) from None
        holder.truncate(0)
        holder.write(str(os.getpid()))
        holder.flush()
        return holder

    def worker_id(self) -> str:
        """This machine's lasting name for itself, made at the first call."""
        path = self.root / "worker-id"
        with _locked(self.root):  # one that serves may start beside the worker
            if not path.exists():
                write_atomically(path, f"worker-{uuid.uuid4().hex[:20]}")
        return path.read_text(encoding="utf-8").strip()

    def forget_worker_id(self) -> None:
        """The next start is a new worker's: with another key, which may not speak for the old one."""
        (self.root / "worker-id").unlink(missing_ok=True)

    def start_session(self, session: WorkerSession) -> None:
        """Say who this start is; ends what an earlier start said about draining."""
        self._draining.unlink(missing_ok=True)
        write_atomically(self._session, session.model_dump_json())

    def session(self) -> WorkerSession:
        """Who the running worker is."""
        return WorkerSession.model_validate_json(self._session.read_bytes())

    def start_draining(self, grace_seconds: float) -> None:
        """Tell every process of this worker to hand its work back within the grace. A second call changes nothing."""
        if not self._draining.exists():
            write_atomically(self._draining, repr(time.time() + grace_seconds))

    def drain_deadline(self) -> float | None:
        """When the worker must be gone, in seconds since the epoch; None while it is not draining."""
        try:
            return float(self._draining.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    def run_root(self, *, job_id: str, attempt_id: str) -> Path:
        """Where one attempt's run directory lies."""
        return self.runs / identifier(job_id) / identifier(attempt_id)

    @contextmanager
    def at_work(self, *, job_id: str, attempt_id: str) -> Iterator[None]:
        """Make an attempt's run directory, and keep those of its job from being removed until the block ends."""
        root = self.run_root(job_id=job_id, attempt_id=attempt_id)
        held = _hold(root.parent)
        try:
            root.mkdir(exist_ok=True)
            yield
        finally:
            os.close(held)

    def run_roots(self, *, job_id: str) -> list[Path]:
        """Run directories of earlier attempts of a job on this host, newest first."""
        return sorted((self.runs / identifier(job_id)).glob("*"), key=_modified, reverse=True)

    def home(self, project: str) -> Path:
        """Where trainers of a project keep what their libraries leave in a home, made if it is not there."""
        folder = self.homes / sha256_of_text(project)[:32]
        folder.mkdir(exist_ok=True, mode=0o700)
        return folder

    def empty_homes(self) -> None:
        """Delete them all. Call it while no trainer runs."""
        shutil.rmtree(self.homes, ignore_errors=True)
        self.homes.mkdir(exist_ok=True)

    def remove_old_runs(self, *, keep: int) -> None:
        """Delete all run directories but the newest few and those of jobs that another slot is at work on.

        Called when the run that just ended is among the newest.
        """
        busy = {record.stem for record in self.trainers.glob("*.json")}
        finished = [root for root in self.runs.glob("*/*") if root.name not in busy and _is_idle(root.parent)]
        for root in sorted(finished, key=_modified, reverse=True)[keep:]:
            with _alone_in(root.parent) as alone:
                if alone:
                    shutil.rmtree(root, ignore_errors=True)
        for job in self.runs.glob("*"):
            with _alone_in(job) as alone:
                if alone and not any(job.iterdir()):
                    job.rmdir()


def identifier(text: str) -> str:
    """Return an identifier that may be used as a file name.

    Raises:
        ValueError: it is not one word of letters, digits, `_`, `.` and `-`.
    """
    if not _IDENTIFIER.fullmatch(text):
        raise ValueError(f"{text!r} is not an identifier")
    return text


def inside(root: Path, name: str) -> Path:
    """Return `root/name` for a relative name that stays below `root`.

    Raises:
        ValueError: the name is absolute, empty or leads out of `root`.
    """
    parts = name.split("/")
    if not name or "\0" in name or "\\" in name or any(part in {"", ".", ".."} for part in parts):
        raise ValueError(f"{name!r} is not a relative file name")
    return root.joinpath(*parts)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _hold(job: Path) -> int:
    """Make a job's folder and share a lock on it, which ends when the descriptor is closed or the process dies."""
    while True:
        job.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another slot has just removed it
            descriptor = os.open(job, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if os.fstat(descriptor).st_nlink:
                return descriptor
            os.close(descriptor)


@contextmanager
def _alone_in(job: Path) -> Iterator[bool]:
    """Whether nobody is at work in a job's folder; then nobody begins until the block ends."""
    try:
        descriptor = os.open(job, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = bool(os.fstat(descriptor).st_nlink)
    except OSError:
        alone = False
    try:
        yield alone
    finally:
        os.close(descriptor)


def _is_idle(job: Path) -> bool:
    with _alone_in(job) as alone:
        return alone


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
