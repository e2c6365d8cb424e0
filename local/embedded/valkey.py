"""An embedded Valkey on a unix socket, with a password: it carries wake-ups only, so nothing of it is kept on disk."""

import os
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tunesmith.local.embedded.binaries import ValkeyBinary, valkey_binary
from tunesmith.local.embedded.diagnosis import valkey_failure
from tunesmith.local.embedded.folders import private_folder, socket_folder
from tunesmith.local.embedded.process import Command, alive, end_stray, spawn, stop, wait_until
from tunesmith.local.embedded.secrets import keep_password, kept_password, new_password

START_TIMEOUT_SECONDS = 20.0
_STOP_GRACE_SECONDS = 10.0
_MAX_MEMORY = "256mb"  # wake-ups are tiny; when a flood fills this, publishing fails, which is harmless


class ValkeyServer:
    """One Valkey whose files lie in `root`. Use as a context manager, or through prepare, command and ready."""

    def __init__(
        self,
        root: Path,
        *,
        log: Path,
        environment: Mapping[str, str] = os.environ,
        binary: ValkeyBinary | None = None,
    ) -> None:
        self.log = log
        self.binary = binary or valkey_binary(environment)
        self._root = private_folder(root)
        self._environment = environment
        self._pid_file = self._root / "valkey.pid"
        sockets = socket_folder(self._root, name="socket", owner_id=None, environment=environment)
        self.socket_path = sockets / "valkey.sock"
        self.password = _password(self._root / "password")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Of the server started by `start`."""
        assert self._process is not None, "start() comes first"  # noqa: S101 - for programmers
        return self._process.pid

    @property
    def url(self) -> str:
        """What Celery and redis-py's kombu transport take; the password is in it."""
        return f"redis+socket://:{self.password}@{self.socket_path}"

    def start(self) -> None:
        """Prepare, start and wait. Raises EmbeddedError."""
        self.prepare()
        self._process = spawn(self.command(), log=self.log)
        process = self._process
        wait_until(lambda: self.ready(process) or process.poll() is not None, timeout_seconds=START_TIMEOUT_SECONDS)
        if not self.ready(process):
            self.stop()
            raise valkey_failure("Valkey did not start", log=self.log)

    def stop(self) -> None:
        """Ask it to end; it drops its clients and removes its socket."""
        if self._process is not None:
            stop(self._process, first=signal.SIGTERM, grace_seconds=_STOP_GRACE_SECONDS)

    def prepare(self) -> None:
        """End a server that an earlier run left behind, and its socket."""
        try:
            pid = int(self._pid_file.read_text())
        except (OSError, ValueError):
            pid = None
        if pid and alive(pid) and _works_in(pid, self._root):
            end_stray(pid, signals=(signal.SIGTERM, signal.SIGKILL), grace_seconds=5)
        self._pid_file.unlink(missing_ok=True)
        self.socket_path.unlink(missing_ok=True)

    def command(self) -> Command:
        """The server process. The password stands in a file: anybody on this machine can read a command line."""
        settings = self._root / "valkey.conf"
        keep_password(settings, f"requirepass {self.password}")
        options = {
            "dir": str(self._root),
            "port": "0",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "pidfile": str(self._pid_file),
            "daemonize": "no",
            "save": "",
            "appendonly": "no",
            "maxmemory": _MAX_MEMORY,
            "maxmemory-policy": "noeviction",
            "loglevel": "notice",
            "logfile": "",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        environment = {"PATH": self._environment.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
        return Command(argv=(str(self.binary.path), str(settings), *words), environment=environment)

    def ready(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether it knows its password and answers PING."""
        if process.poll() is not None:
            return False
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            try:
                connection.connect(str(self.socket_path))
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                return connection.makefile("rb").read(12) == b"+OK\r\n+PONG\r\n"
            except OSError:
                return False


def _password(path: Path) -> str:
    """Made at the first start: the same afterwards, so that a service that is still connected can come back."""
    if (known := kept_password(path)) is not None:
        return known
    keep_password(path, new_password())
    return _password(path)


def _works_in(pid: int, root: Path) -> bool:
    """Whether `pid` runs in `root`: a recycled process id does not."""
    try:
        return Path(f"/proc/{pid}/cwd").resolve(strict=True) == root.resolve()
    except OSError:
        return False
