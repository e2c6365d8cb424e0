"""An embedded PostgreSQL: our own data directory, a unix socket in a private folder, nothing on the network.

The service connects with a password of its own, as the owner of its database and of nothing else (`roles`).
"""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from tunesmith.local.embedded.binaries import PostgresBinaries, postgres_candidates
from tunesmith.local.embedded.diagnosis import postgres_failure
from tunesmith.local.embedded.errors import DirectoryUnusable
from tunesmith.local.embedded.folders import private_folder, recorded, remembered_folder, socket_folder
from tunesmith.local.embedded.identity import Identity, unprivileged
from tunesmith.local.embedded.process import Command, alive, end_stray, spawn, stop, wait_until
from tunesmith.local.embedded.roles import (
    HOST_BASED_AUTHENTICATION,
    SERVICE,
    SUPERUSER,
    database_statement,
    role_statements,
    take_over_statements,
)
from tunesmith.local.embedded.secrets import keep_password, kept_password, new_password
from tunesmith.tuning.codes import STACK_VARIABLE

DATABASE = "tunesmith"
START_TIMEOUT_SECONDS = 60.0  # crash recovery replays the log first, which can take a while on a slow disk
_STOP_GRACE_SECONDS = 20.0
_LARGE_FOLDERS = [Path("/var/tmp")]  # noqa: S108 - survives a reboot, and every folder in it is made by mkdtemp


class PostgresServer:
    """One PostgreSQL over the data in `root`. Use as a context manager, or through prepare, command and ready.

    `durable=False` drops fsync and gives the service's role what tests need: for them alone.
    `candidates` are the binaries to choose from.
    """

    def __init__(
        self,
        root: Path,
        *,
        log: Path,
        environment: Mapping[str, str] = os.environ,
        durable: bool = True,
        candidates: list[PostgresBinaries] | None = None,
        identity: Identity | None = None,
    ) -> None:
        self.log = log
        self._root = private_folder(root)
        self._environment = environment
        self._durable = durable
        self._candidates = candidates or postgres_candidates(environment)
        self._identity = identity or unprivileged(self._candidates[0].folder / "postgres")
        self._home = self._data_home()
        self.data = self._home / "data"
        self.binaries = _matching(self._candidates, self.data)
        self.sockets = socket_folder(
            self._root, name="socket", owner_id=self._identity.user_id, environment=self._environment
        )
        self._password_file = self._root / "password"
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

    def url(self, database: str = DATABASE) -> str:
        """A libpq URL, with the password, that reaches `database` through the socket. Call it after `prepare`."""
        password = kept_password(self._password_file)
        return f"postgresql:///{database}?host={self.sockets}&user={SERVICE}&password={password}"

    def start(self) -> None:
        """Prepare, start and wait. Raises EmbeddedError."""
        self.prepare()
        self._process = spawn(self.command(), log=self.log)
        process = self._process
        wait_until(lambda: self.ready(process) or process.poll() is not None, timeout_seconds=START_TIMEOUT_SECONDS)
        if not self.ready(process):
            self.stop()
            raise postgres_failure("PostgreSQL did not start", log=self.log, data=self.data)

    def stop(self) -> None:
        """Fast stop: open transactions are rolled back, everything committed is on disk."""
        if self._process is not None:
            stop(self._process, first=signal.SIGINT, grace_seconds=_STOP_GRACE_SECONDS, then=signal.SIGQUIT)

    def prepare(self) -> bool:
        """End a server that an earlier run left behind and make the data directory if there is none.

        One from before the service had a role of its own gets it. Returns whether the directory is new.
        Raises EmbeddedError.
        """
        self.end_stale()
        is_new = not self.data.exists()
        if is_new:
            self._create()
        elif kept_password(self._password_file) is None:
            self._give_to_the_service()
        (self.data / "pg_hba.conf").write_text(HOST_BASED_AUTHENTICATION, encoding="utf-8")
        return is_new

    def command(self) -> Command:
        """The server process. SIGINT at the death of the parent is PostgreSQL's fast stop."""
        settings = [
            "listen_addresses=",
            "unix_socket_permissions=0700",
            "logging_collector=off",
            "log_destination=stderr",
            "log_timezone=UTC",
            "timezone=UTC",
        ]
        if not self._durable:
            settings += ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]
        options = [word for setting in settings for word in ("-c", setting)]
        return self._command("postgres", "-D", str(self.data), "-k", str(self.sockets), *options)

    def ready(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether this very process accepts connections: the last line of its lock file says so."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[0] == str(process.pid) and lines[7].strip() == "ready"

    def end_stale(self) -> None:
        """End a postmaster of an earlier run that still owns the data directory."""
        pid = self._recorded_pid()
        if pid and alive(pid) and _works_in(pid, self.data):
            end_stray(pid, signals=(signal.SIGINT, signal.SIGQUIT, signal.SIGKILL), grace_seconds=10)

    def _data_home(self) -> Path:
        """Where the data lies: `root`, unless the server runs as another user, who may not be able to enter it."""
        record = self._root / "data.path"
        if self._identity.user_id is None and not record.exists():
            return self._root
        if (known := recorded(record)) and not (known / "data").is_dir() and (self._root / "initialised").exists():
            raise DirectoryUnusable(
                f"The database of {self._root} was kept in {known}, and that folder is gone.",
                hint="restore it from a backup, or choose a new --data-dir",
            )
        return remembered_folder(record, parents=_LARGE_FOLDERS, owner_id=self._identity.user_id)

    def _create(self) -> None:
        """Build aside and rename, so that a killed first start leaves nothing half made.

        Without fsync: for the half minute until the kernel has written the pages, there is nothing in it to lose.
        """
        aside = self._home / "data.new"
        shutil.rmtree(aside, ignore_errors=True)
        self._run("initdb", "--no-sync", "--no-locale", "-E", "UTF8", "-A", "reject", "-U", SUPERUSER, "-D", str(aside))
        password = new_password()
        statements = role_statements(password=password, for_tests=not self._durable)
        self._run_alone(aside, "postgres", [*statements, database_statement(DATABASE)], "-F")
        keep_password(self._password_file, password)
        aside.rename(self.data)
        (self._root / "initialised").touch()

    def _give_to_the_service(self) -> None:
        """The password is kept last: a start that was killed here does it all again."""
        password = new_password()
        statements = role_statements(password=password, for_tests=not self._durable)
        self._run_alone(self.data, DATABASE, [*statements, *take_over_statements(DATABASE)])
        keep_password(self._password_file, password)

    def _run_alone(self, data: Path, database: str, statements: list[str], *options: str) -> None:
        """In single-user mode, where no other process can be connected; it ends with the first that fails."""
        text = "".join(f"{statement}\n" for statement in statements)
        settings = ("-c", "exit_on_error=on", "-c", "log_statement=none", *options)
        self._run("postgres", "--single", *settings, "-D", str(data), database, statement=text)

    def _run(self, program: str, *arguments: str, statement: str = "") -> None:
        log = self.log.with_name("initdb.log")
        command = self._command(program, *arguments)
        # A start that is killed leaves it, which works on or tidies up in the same folder: the next one must find it.
        mark = {name: value for name, value in self._environment.items() if name == STACK_VARIABLE}
        command = replace(command, environment={**command.environment, **mark})
        process = spawn(command, log=log, stdin=subprocess.PIPE)
        process.communicate(statement.encode())
        if process.returncode != 0:
            raise postgres_failure(f"{program} failed", log=log, data=self.data)

    def _command(self, program: str, *arguments: str) -> Command:
        return Command(
            argv=(*self._identity.prefix, str(self.binaries.folder / program), *arguments),
            environment={"PATH": self._environment.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
            user_id=self._identity.user_id,
            parent_death_signal=signal.SIGINT,
        )

    def _recorded_pid(self) -> int | None:
        try:
            return int((self.data / "postmaster.pid").read_text().split("\n", maxsplit=1)[0])
        except (OSError, ValueError):
            return None


def _matching(candidates: list[PostgresBinaries], data: Path) -> PostgresBinaries:
    """The first candidate that can open `data`: any for a new directory, else the one of its major version."""
    if not data.exists():
        return candidates[0]
    major = _major_version_of(data)
    for binaries in candidates:
        if binaries.major == major:
            return binaries
    here = ", ".join(f"{binaries.version} ({binaries.source})" for binaries in candidates)
    raise DirectoryUnusable(
        f"{data} was made by PostgreSQL {major}; this machine has {here}.",
        hint=f"install PostgreSQL {major} or set TUNESMITH_PG_BIN to its bin folder, or choose another --data-dir",
    )


def _major_version_of(data: Path) -> int:
    try:
        text = (data / "PG_VERSION").read_text().strip()
    except OSError as error:
        raise DirectoryUnusable(
            f"{data} holds no PostgreSQL database that can be read (PG_VERSION: {error.strerror}).",
            hint="choose another --data-dir, or restore this one from a backup",
        ) from error
    if not re.fullmatch(r"\d+", text):
        raise DirectoryUnusable(
            f"{data / 'PG_VERSION'} is damaged: it says {text[:20]!r}, not a version.",
            hint="restore the directory from a backup, or choose another --data-dir",
        )
    return int(text)


def _works_in(pid: int, data: Path) -> bool:
    """Whether `pid` runs in `data`, as a postmaster does: a recycled process id does not."""
    try:
        return Path(f"/proc/{pid}/cwd").resolve(strict=True) == data.resolve()
    except OSError:
        return False
