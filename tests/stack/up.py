"""One `tunesmith up` as an operator runs it, whose every process can be found, killed and waited for."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.stack.installation import Installation
from tests.stack.worker import Worker, trainers_below
from tests.waiting import eventually
from tunesmith.cli.connection import Connection, read_connection
from tunesmith.local.embedded.locks import read_holder
from tunesmith.local.embedded.process import alive
from tunesmith.local.embedded.roles import SERVICE
from tunesmith.local.embedded.secrets import kept_password
from tunesmith.local.up import strays

SERVICES = ("api", "worker-api", "keeper", "worker", "valkey", "postgres")
_END_SECONDS = 90.0
_WORDS = {"api": b"public", "worker-api": b"workers", "keeper": b"keeper", "worker": b"run"}
_PID_FILES = {"postgres": "data/postmaster.pid", "valkey": "valkey.pid"}


class Up(Installation):
    """A process that was just started, in a data directory of its own; `settings` are variables of its environment."""

    def __init__(self, data_dir: Path, *options: str, **settings: str) -> None:
        self.data_dir = data_dir
        self.output = data_dir.with_name(f"{data_dir.name}-{uuid.uuid4().hex[:6]}.txt")
        self._environment = os.environ | settings
        self._machines: list[Worker] = []
        command = [sys.executable, "-m", "tunesmith.local.up", "--data-dir", str(data_dir), "--port", "0", *options]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command, env=self._environment, stdout=output, stderr=output, start_new_session=True
            )

    def wait_ready(self) -> Connection:
        """Until it says that it is ready, or has ended without."""
        eventually(lambda: self._is_ready() or self.process.poll() is not None, what=self.logs)
        connection = read_connection(self.data_dir)
        assert connection is not None, self.logs()
        return connection

    @property
    def said(self) -> str:
        """What it printed itself."""
        return self.output.read_text()

    @property
    def connection(self) -> Connection:
        found = read_connection(self.data_dir)
        assert found is not None, self.logs()
        return found

    @property
    def url(self) -> str:
        return self.connection.base_url.removesuffix("/v1")

    @property
    def user_key(self) -> str:
        return self.connection.api_key

    @property
    def database_url(self) -> str:
        place = f"host={self.data_dir}/postgres/socket"
        return f"postgresql:///tunesmith?{place}&user={SERVICE}&password={self._password('postgres')}"

    def _password(self, server: str) -> str | None:
        return kept_password(self.data_dir / server / "password")

    def logs(self) -> str:
        logs = [self.output, *sorted((self.data_dir / "logs").glob("*.log"))]
        return "\n".join(f"== {log.name}\n{log.read_text(errors='replace')[-2500:]}" for log in logs if log.exists())

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """By default Ctrl-C, which a person presses at the end; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(_END_SECONDS)

    def end(self) -> None:
        """Leave nothing behind, however the test went."""
        for machine in self._machines:
            machine.kill()
        if self.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop()
        self.process.kill()
        self.process.wait()
        strays.end(self.data_dir, grace_seconds=1)

    def start_worker(self, name: str, *, work_dir: Path | None = None) -> Worker:
        """Another worker of the installation, as on a machine of its own; ends with the installation."""
        environment = {
            **self._environment,
            strays.MARK: str(self.data_dir.resolve()),
            "TUNESMITH_URL": self.connection.worker_url or "",
            "TUNESMITH_WORKER_KEY": (self.data_dir / "keys" / "worker.key").read_text().strip(),
            "REDIS_URL": f"redis+socket://:{self._password('valkey')}@{self.data_dir}/valkey/socket/valkey.sock",
        }
        log = self.data_dir / "logs" / f"{name}.log"
        folder = work_dir or self.data_dir / f"work-{name}"
        self._machines.append(Worker(name, work_dir=folder, log=log, environment=environment))
        return self._machines[-1]

    def tunesmith(self, *words: str) -> str:
        """Run the command line as a user does; returns its standard output."""
        command = [sys.executable, "-m", "tunesmith.local.main", *words]
        environment = {**os.environ, "TUNESMITH_URL": self.connection.base_url, "TUNESMITH_API_KEY": self.user_key}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def pid(self, part: str) -> int | None:
        """The process of one part. The two servers overwrite their environment, so their pid files tell."""
        if part == "trainer":
            return next(iter(self.trainers()), None)
        if part in _PID_FILES:
            with contextlib.suppress(OSError, ValueError, IndexError):
                pid = int((self.data_dir / part / _PID_FILES[part]).read_text().split()[0])
                return pid if alive(pid) else None
            return None
        return next((pid for pid in strays.find(self.data_dir) if _is(part, pid)), None)

    def pids(self) -> list[int]:
        """Every living process of the installation, the supervisor and the servers' own children included."""
        found = set(strays.find(self.data_dir)) | {pid for part in _PID_FILES if (pid := self.pid(part))}
        with contextlib.suppress(psutil.Error):
            found |= {process.pid for process in psutil.Process(self.process.pid).children(recursive=True)}
        return sorted(pid for pid in found if alive(pid))

    def trainers(self) -> list[int]:
        """Processes that a worker started for a run."""
        return [process.pid for process in trainers_below(self.data_dir)]

    def replace(self, part: str) -> None:
        """SIGKILL to the part's main process; wait for another one and for a service that answers again."""
        killed = eventually(lambda: self.pid(part), what=lambda: f"a {part} to kill\n{self.logs()}")
        os.kill(killed, signal.SIGKILL)
        eventually(
            lambda: self.pid(part) not in {None, killed} and self.answers(), what=lambda: f"a new {part}\n{self.logs()}"
        )

    def _is_ready(self) -> bool:
        holder = read_holder(self.data_dir)
        return holder is not None and holder.pid == self.process.pid and holder.ready


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A short path, so that the sockets lie in the data directory as they do for a user; gone with all that runs."""
    folder = Path(f"/tmp/ts-{uuid.uuid4().hex[:8]}")
    folder.mkdir()
    try:
        yield folder
    finally:
        for left in folder.iterdir():
            if left.is_dir():
                strays.end(left, grace_seconds=1)
        shutil.rmtree(folder, ignore_errors=True)


def _is(part: str, pid: int) -> bool:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return _WORDS[part] in words and os.getsid(pid) == pid
    return False
