"""The database of an embedded installation as one file: written while it serves, and read into an empty one."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tunesmith.local.embedded.errors import BinaryNotFound, DirectoryInUse, ServerFailed
from tunesmith.local.embedded.locks import DirectoryLock
from tunesmith.local.embedded.postgres import DATABASE, PostgresServer
from tunesmith.local.up.layout import Layout


@contextmanager
def server_of(layout: Layout) -> Iterator[PostgresServer]:
    """The installation's PostgreSQL: that of a `tunesmith up` that runs, else one that runs meanwhile."""
    server = PostgresServer(layout.postgres, log=layout.log("postgres"))
    lock = DirectoryLock(layout.root)
    try:
        lock.acquire()
    except DirectoryInUse:
        yield server
        return
    try:
        with server:
            yield server
    finally:
        lock.release()


def dump(server: PostgresServer, file: Path) -> None:
    """Everything that was committed at one moment. Raises ServerFailed or BinaryNotFound."""
    _run(server, "pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={file}", DATABASE)


def load(server: PostgresServer, file: Path) -> None:
    """Into a database with nothing in it: all of it or nothing. Raises ServerFailed or BinaryNotFound."""
    options = ("--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error")
    _run(server, "pg_restore", *options, f"--dbname={DATABASE}", str(file))


def _run(server: PostgresServer, program: str, *words: str) -> None:
    path = server.binaries.folder / program
    if not path.is_file():
        raise BinaryNotFound(
            f"{server.binaries.folder} has no {program}.",
            hint="install the client programs of PostgreSQL, or let TUNESMITH_PG_BIN name a folder that has them",
        )
    ended = subprocess.run([str(path), *words], env=_environment(server), capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        said = "\n".join(ended.stderr.strip().splitlines()[-4:])
        raise ServerFailed(f"{program} failed:\n{said}", hint=f"the log of the server is {server.log}")


def _environment(server: PostgresServer) -> dict[str, str]:
    """The password is no word of the command line, which anybody can read."""
    options = {name: values[0] for name, values in parse_qs(urlsplit(server.url()).query).items()}
    names = {"PGHOST": "host", "PGUSER": "user", "PGPASSWORD": "password"}
    return {"PATH": os.environ.get("PATH", os.defpath), **{name: options[key] for name, key in names.items()}}
