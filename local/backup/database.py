"""The database of an embedded installation as one file: written while it serves, and read into an empty one."""

import os
import subprocess
from collections.abc import Iterable, Iterator
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


def stored_bytes(server: PostgresServer) -> dict[str, int]:
    """The length by hash of all bytes that the database counts on. Raises as `dump` does; so do the others here."""
    rows = _ask(server, "SELECT sha256, bytes FROM blobs WHERE is_stored ORDER BY sha256;").split()
    return {sha256: int(length) for sha256, length in (row.split("|") for row in rows)}


def size_bytes(server: PostgresServer) -> int:
    """What the database takes on its disk; a dump, which is compressed and has no indexes, takes less."""
    return int(_ask(server, f"SELECT pg_database_size('{DATABASE}');"))


def dump(server: PostgresServer, file: Path) -> None:
    """Everything that was committed at one moment. Raises ServerFailed or BinaryNotFound."""
    _run(server, "pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={file}", DATABASE)


def load(server: PostgresServer, file: Path) -> None:
    """Into a database with nothing in it: all of it or nothing."""
    options = ("--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error")
    _run(server, "pg_restore", *options, f"--dbname={DATABASE}", str(file))


def count_on(server: PostgresServer, hashes: Iterable[str]) -> None:
    """Let the database count on no other stored bytes than these, of which there may be a million."""
    lines = (
        "CREATE TEMPORARY TABLE restored (sha256 text PRIMARY KEY);",
        "COPY restored FROM STDIN;",
        *hashes,
        r"\.",
        "UPDATE blobs SET is_stored = false WHERE is_stored AND sha256 NOT IN (SELECT sha256 FROM restored);",
    )
    _ask(server, "\n".join(lines))


def _ask(server: PostgresServer, statements: str) -> str:
    words = ("--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", "--file=-")
    return _run(server, "psql", *words, DATABASE, said=statements)


def _run(server: PostgresServer, program: str, *words: str, said: str = "") -> str:
    path = server.binaries.folder / program
    if not path.is_file():
        raise BinaryNotFound(
            f"{server.binaries.folder} has no {program}.",
            hint="install the client programs of PostgreSQL, or let TUNESMITH_PG_BIN name a folder that has them",
        )
    command, environment = [str(path), *words], _environment(server)
    ended = subprocess.run(command, env=environment, input=said, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        last_words = "\n".join(ended.stderr.strip().splitlines()[-4:])
        raise ServerFailed(f"{program} failed:\n{last_words}", hint=f"the log of the server is {server.log}")
    return ended.stdout


def _environment(server: PostgresServer) -> dict[str, str]:
    """The password is no word of the command line, which anybody can read."""
    options = {name: values[0] for name, values in parse_qs(urlsplit(server.url()).query).items()}
    names = {"PGHOST": "host", "PGUSER": "user", "PGPASSWORD": "password"}
    return {"PATH": os.environ.get("PATH", os.defpath), **{name: options[key] for name, key in names.items()}}
