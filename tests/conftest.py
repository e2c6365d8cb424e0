"""Real servers for every test that needs one: PostgreSQL and Valkey, built and migrated as in production."""

import os
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:  # the tests of the trainer run where no server and no driver is installed
    from psycopg import sql

    from tunesmith.local.embedded.postgres import PostgresServer

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

_TEMPLATE = "migrated_template"
_DROP_TRIES = 100
_SLOW_TO_IMPORT = ("torch", "transformers")
_LONGEST_FIRST = Path(__file__).with_name("longest_first.txt")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-torch", action="store_true", help="whoever imports torch or transformers fails")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--no-torch"):
        sys.meta_path.insert(0, _NoTorch())


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Among several processes the files that take longest begin first, and the quick ones fill up the end."""
    _mark_slow_rows(items)
    if hasattr(config, "workerinput"):
        longest = {name: place for place, name in enumerate(_LONGEST_FIRST.read_text().split())}
        items.sort(key=lambda item: _turn(item.nodeid.partition("::")[0], longest))


def _mark_slow_rows(items: list[pytest.Item]) -> None:
    """All rows but the first few of what is `mostly_slow`; rows that are slow by themselves are not counted."""
    seen: Counter[str] = Counter()
    for item in items:
        mark = item.get_closest_marker("mostly_slow")
        if mark is None or item.get_closest_marker("slow") is not None:
            continue
        test = item.nodeid.partition("[")[0]
        seen[test] += 1
        if seen[test] > mark.kwargs["rows"]:
            item.add_marker(pytest.mark.slow)


def _turn(file: str, longest: dict[str, int]) -> tuple[bool, int]:
    return file.startswith("tests/unit/"), longest.get(file, len(longest))


class _NoTorch(MetaPathFinder):
    """Keeps `make test-fast` what it says: seconds go into importing torch before the first test runs."""

    def find_spec(self, fullname: str, *_: object) -> None:
        if fullname in _SLOW_TO_IMPORT:
            raise ImportError(f"The fast tests import no {fullname}: mark the test `torch`, or see tests/fast.txt.")


@pytest.fixture(scope="session", autouse=True)
def _no_foreign_settings() -> None:
    """A PGPORT or a DATABASE_URL of the developer's shell must not leak into a test."""
    for name in list(os.environ):
        if name.startswith(("PG", "TUNESMITH_", "OPENAI_")) and name not in (
            "TUNESMITH_PG_BIN",
            "TUNESMITH_VALKEY_BIN",
        ):
            del os.environ[name]
    for name in ("DATABASE_URL", "REDIS_URL"):
        os.environ.pop(name, None)
    os.environ["TUNESMITH_MEASURE_CONSTANTS"] = "false"  # five seconds a worker; the tests that are about it ask for it
    # A shell without a terminal starts its background jobs deaf to Ctrl-C, and whatever they start inherits that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Tests run trainers beside servers on few cores: `worker.train.environment` says why waiting threads must sleep.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory, _no_foreign_settings: None) -> "Iterator[PostgresServer]":
    """One PostgreSQL for the whole run, without fsync."""
    from tunesmith.local.embedded.postgres import PostgresServer

    root = tmp_path_factory.mktemp("pg")
    with PostgresServer(root, log=root / "postgres.log", durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory, _no_foreign_settings: None) -> Iterator[str]:
    """One Valkey for the whole run."""
    from tunesmith.local.embedded.valkey import ValkeyServer

    root = tmp_path_factory.mktemp("vk")
    with ValkeyServer(root, log=root / "valkey.log") as server:
        yield server.url


@pytest.fixture
def empty_database_url(postgres_server: "PostgresServer") -> Iterator[str]:
    """A database with nothing in it."""
    yield from _database(postgres_server, template="template0")


@pytest.fixture(scope="session")
def database_url(postgres_server: "PostgresServer", _migrated: str) -> Iterator[str]:
    """A migrated database that the whole run shares: for tests that look only at rows of their own."""
    yield from _database(postgres_server, template=_migrated)


@pytest.fixture
def fresh_database_url(postgres_server: "PostgresServer", _migrated: str) -> Iterator[str]:
    """A migrated database of this test's own: a copy of a template, made in tens of milliseconds."""
    yield from _database(postgres_server, template=_migrated)


@pytest.fixture(scope="session")
def new_database_url(postgres_server: "PostgresServer", _migrated: str) -> Iterator[Callable[[], str]]:
    """Makes as many migrated databases as a test asks for; they are there until the run ends."""
    yield from _database_maker(postgres_server, template=_migrated)


@pytest.fixture(scope="session")
def new_empty_database_url(postgres_server: "PostgresServer") -> Iterator[Callable[[], str]]:
    """The same for databases with nothing in them."""
    yield from _database_maker(postgres_server, template="template0")


@pytest.fixture(scope="session")
def _migrated(postgres_server: "PostgresServer") -> str:
    from psycopg import sql

    from tunesmith.service.database.migrate import upgrade

    _execute(postgres_server, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_TEMPLATE)))
    upgrade(postgres_server.url(_TEMPLATE))
    return _TEMPLATE


def _database(server: "PostgresServer", *, template: str) -> Iterator[str]:
    name = _create(server, template=template)
    yield server.url(name)
    _drop(server, name)


def _database_maker(server: "PostgresServer", *, template: str) -> Iterator[Callable[[], str]]:
    made: list[str] = []

    def make() -> str:
        made.append(_create(server, template=template))
        return server.url(made[-1])

    yield make
    for name in made:
        _drop(server, name)


def _create(server: "PostgresServer", *, template: str) -> str:
    from psycopg import sql

    name = f"test_{uuid.uuid4().hex[:12]}"
    _execute(server, sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
    return name


def _drop(server: "PostgresServer", name: str) -> None:
    from psycopg import errors, sql

    statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
    for _ in range(_DROP_TRIES):
        try:
            return _execute(server, statement)
        except errors.InsufficientPrivilege:  # autovacuum is in it, which an owner may not end; it leaves by itself
            time.sleep(0.1)
    return _execute(server, statement)


def _execute(server: "PostgresServer", statement: "sql.Composed") -> None:
    import psycopg

    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(statement)
