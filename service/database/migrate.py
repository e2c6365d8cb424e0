"""Bring a database to the newest schema; safe to run twice at once."""

import time
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg.errors import LockNotAvailable
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from tunesmith.service.database.transactions import driver_url
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import TunesmithError

_LOCK_KEY = 0x74756E65  # any number that every copy of this program agrees on
_PAUSE_SECONDS = 0.25
_TRIES = 200  # of a migration that finds a table in use, each after a pause
_LOCK_MILLISECONDS = 2000  # behind a statement that waits for a lock on a table, all others on that table wait


class SchemaIsNewer(TunesmithError):
    """A later version of this program has migrated the database already."""

    code = ErrorCode.SCHEMA_IS_NEWER
    http_status = 409


def upgrade(database_url: str) -> None:
    """Upgrade to head. A second copy waits for the first and then finds nothing to do.

    Raises:
        SchemaIsNewer: nothing was changed.
    """
    _run(database_url, _upgrade)


def downgrade(database_url: str, revision: str) -> None:
    """Go back to `revision`; `base` removes everything."""
    _run(database_url, lambda config: command.downgrade(config, revision))


def check(database_url: str) -> None:
    """Raise alembic's CommandError when the tables in code and in the database differ."""
    _run(database_url, command.check)


def head() -> str:
    """The newest revision this program knows."""
    revision = ScriptDirectory.from_config(configuration()).get_current_head()
    if revision is None:
        raise RuntimeError("the folder of migrations is empty")
    return revision


def problem(at: str | None) -> str | None:
    """What is wrong with a database that is at this revision, with the next step; None where nothing is."""
    if at == head():
        return None
    if at is None:
        return "it has no tables yet: run `tunesmith-service migrate`"
    if _is_newer(at):
        return f"its schema ({at}) is newer than this program ({head()}): install the version that was here before"
    return f"its schema is at {at}, this program needs {head()}: run `tunesmith-service migrate`"


def current(connection: Connection) -> str | None:
    """The revision that the connected database is at; None when it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


def configuration() -> Config:
    """Alembic's configuration, without an ini file."""
    config = Config()
    config.set_main_option("script_location", str(_folder()).replace("%", "%%"))
    return config


def _is_newer(revision: str) -> bool:
    return revision not in {known.revision for known in ScriptDirectory.from_config(configuration()).walk_revisions()}


def _upgrade(config: Config) -> None:
    connection = config.attributes["connection"]
    at = current(connection)
    connection.rollback()  # alembic begins by itself
    if at is not None and _is_newer(at):
        raise SchemaIsNewer(
            f"The schema of the database ({at}) is newer than this program ({head()}).",
            hint="install the version of Tunesmith that was here before, or a later one; nothing was changed",
        )
    command.upgrade(config, "head")


def _run(database_url: str, operation: Callable[[Config], None]) -> None:
    with _engine(database_url).connect() as connection:
        _lock(connection)
        try:
            config = configuration()
            config.attributes["connection"] = connection
            _patiently(connection, lambda: operation(config))
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK_KEY})
            connection.commit()


def _lock(connection: Connection) -> None:
    """Asked for again and again: whoever waited in one statement would hold up an index that is made concurrently."""
    while not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK_KEY}).scalar_one():
        connection.rollback()
        time.sleep(_PAUSE_SECONDS)
    connection.execute(text(f"SET lock_timeout = {_LOCK_MILLISECONDS}"))
    connection.commit()


def _patiently(connection: Connection, operation: Callable[[], None]) -> None:
    """Each migration is a transaction, so that another try goes on where one ended."""
    for tries_left in reversed(range(_TRIES)):
        try:
            operation()
        except OperationalError as error:
            connection.rollback()
            if not isinstance(error.orig, LockNotAvailable) or not tries_left:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def _engine(database_url: str) -> Engine:
    return create_engine(driver_url(database_url), poolclass=NullPool, connect_args={"connect_timeout": 10})


def _folder() -> Path:
    """`service/migrations` in an installed wheel, `migrations` beside `service` in a checkout."""
    service = Path(__file__).resolve().parents[1]
    installed = service / "migrations"
    return installed if installed.is_dir() else service.parent / "migrations"
