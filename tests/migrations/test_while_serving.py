"""Migrations run while services of the version before go on: nothing holds a large table for long, or breaks it."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, event

from tests.waiting import eventually
from tunesmith.service.database import migrate

# Nobody has installed what is older than the first release: such a database is upgraded while nothing serves.
_BEFORE_THE_FIRST_RELEASE = {"0003", "0004", "0005", "0007", "0010", "0012", "0013"}
_SMALL = {"alembic_version", "api_keys", "projects", "workers", "inference_workers", "models", "schedules", "aliases"}
_REFUSED = {
    r"CREATE (UNIQUE )?INDEX (?!CONCURRENTLY)\S+ ON (?P<table>\w+)": "use online.create_index",
    r"ALTER TABLE (?P<table>\w+) ADD CONSTRAINT (?!.*(NOT VALID|USING INDEX))": "add it NOT VALID, then validate it",
    r"ALTER TABLE (?P<table>\w+) ALTER COLUMN \w+ (TYPE|SET NOT NULL)": "add a column, or a CHECK that is NOT VALID",
    r"ALTER TABLE (?P<table>\w+) ADD COLUMN .*(GENERATED|SERIAL|random|clock_timestamp)": "every row is written anew",
    r"(UPDATE|DELETE FROM) (?P<table>\w+)": "change rows in batches, from a chore of the keeper",
    r"(LOCK|CLUSTER|VACUUM FULL|REINDEX)( TABLE)? (?P<table>\w+)": "nobody could use it meanwhile",
}
_BREAKS_THE_VERSION_BEFORE = r"ALTER TABLE (?P<table>\w+) (DROP COLUMN|RENAME)|DROP TABLE (?P<dropped>\w+)"
_BOUNDARY = re.compile(r"(?:UPDATE|INSERT INTO) alembic_version .*?'(\w+)'")


@contextmanager
def statements() -> Iterator[list[str]]:
    """What any engine executes meanwhile."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(" ".join(statement.split()))

    event.listen(Engine, "before_cursor_execute", note)
    yield seen
    event.remove(Engine, "before_cursor_execute", note)


def by_revision(seen: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for statement in seen:
        if (boundary := _BOUNDARY.match(statement)) is not None:
            found[boundary[1]], current = current, []
        else:
            current.append(statement)
    return found


def faults(statement: str, *, existing: set[str]) -> list[str]:
    """Why a statement may not run beside services that serve, if there are such reasons."""
    large = existing - _SMALL
    found = [
        reason
        for pattern, reason in _REFUSED.items()
        if (match := re.match(pattern, statement, re.IGNORECASE)) and match["table"] in large
    ]
    match = re.match(_BREAKS_THE_VERSION_BEFORE, statement, re.IGNORECASE)
    if match and (match["table"] or match["dropped"]) in existing:
        found.append("the version before still reads it: take it away one release later")
    return found


def test_no_migration_holds_a_large_table_or_takes_away_what_the_version_before_reads(empty_database_url: str) -> None:
    with statements() as seen:
        migrate.upgrade(empty_database_url)
    made = by_revision(seen)
    assert {"0001", migrate.head()} <= made.keys()
    existing: set[str] = set()
    for revision, own in made.items():
        found = {statement: why for statement in own if (why := faults(statement, existing=existing))}
        assert bool(found) == (revision in _BEFORE_THE_FIRST_RELEASE), (revision, found)
        existing |= {match[1] for one in own if (match := re.match(r"CREATE TABLE (\w+)", one))}


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE INDEX ix ON jobs (labels)",
        "CREATE UNIQUE INDEX ix ON jobs (id)",
        "ALTER TABLE jobs ADD CONSTRAINT c CHECK (epoch > 0)",
        "ALTER TABLE jobs ALTER COLUMN epoch SET NOT NULL",
        "ALTER TABLE jobs ALTER COLUMN epoch TYPE NUMERIC",
        "UPDATE jobs SET epoch = 0",
        "ALTER TABLE jobs DROP COLUMN epoch",
        "ALTER TABLE workers RENAME rung_at TO woken_at",
        "DROP TABLE workers",
    ],
)
def test_what_would_hold_a_table_or_break_the_version_before_is_found(statement: str) -> None:
    assert faults(statement, existing={"jobs", "workers"})


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE INDEX CONCURRENTLY ix ON jobs (labels)",
        "ALTER TABLE jobs ADD COLUMN more TEXT",
        "ALTER TABLE jobs ADD CONSTRAINT c CHECK (epoch > 0) NOT VALID",
        "ALTER TABLE jobs VALIDATE CONSTRAINT c",
        "CREATE INDEX ix ON new_table (id)",
        "UPDATE workers SET slots = 1",
    ],
)
def test_what_neither_holds_nor_breaks_is_not_found(statement: str) -> None:
    assert faults(statement, existing={"jobs", "workers"}) == []


class Upgrade(threading.Thread):
    """In a thread of its own, which says how it ended."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url, self.error = url, None

    def run(self) -> None:
        try:
            migrate.upgrade(self._url)
        except BaseException as error:
            self.error = error  # type: ignore[assignment]


@contextmanager
def upgrading(url: str) -> Iterator[Upgrade]:
    upgrade = Upgrade(url)
    upgrade.start()
    yield upgrade
    upgrade.join(60)
    assert not upgrade.is_alive()
    assert upgrade.error is None
    migrate.check(url)


def waits_for_a_lock(url: str, statement: str) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query, (f"%{statement}%",)).fetchone()
    return bool(row and row[0])


def test_jobs_are_written_while_their_index_is_made(new_database_url: Callable[[], str]) -> None:
    url = new_database_url()
    migrate.downgrade(url, "0005")
    with psycopg.connect(url) as writer, psycopg.connect(url) as other:
        writer.execute("LOCK TABLE jobs IN ROW EXCLUSIVE MODE")  # as every INSERT and UPDATE does
        with upgrading(url):
            eventually(lambda: waits_for_a_lock(url, "CREATE INDEX CONCURRENTLY"), seconds=30)
            other.execute("SET lock_timeout = '5s'")
            other.execute("LOCK TABLE jobs IN ROW EXCLUSIVE MODE")
            other.rollback()
            writer.rollback()


def test_a_migration_that_waits_for_a_table_lets_others_use_it(
    new_database_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "_LOCK_MILLISECONDS", 100)
    url = new_database_url()
    migrate.downgrade(url, "0014")
    with psycopg.connect(url) as reader, psycopg.connect(url) as other:
        reader.execute("SELECT count(*) FROM firings")  # and goes on reading
        with upgrading(url):
            eventually(lambda: waits_for_a_lock(url, "ALTER TABLE firings"), seconds=30)
            other.execute("SET statement_timeout = '5s'")
            other.execute("SELECT count(*) FROM firings")
            other.rollback()
            reader.rollback()


def test_half_an_index_that_an_earlier_try_left_is_made_anew(new_database_url: Callable[[], str]) -> None:
    url = new_database_url()
    migrate.downgrade(url, "0005")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE INDEX ix_jobs_labels ON jobs (id)")
        migrate.upgrade(url)
        found = connection.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'ix_jobs_labels'").fetchall()
    assert "gin" in str(found)
