"""Where histories are played, one after another: one API over one database, in which time passes only when it is told.

The database's `now()` is a row, and the service's own clocks are an attribute here: a seed plays the same history on a
machine of any speed. What a connection, a statement's compilation or an application costs is paid once.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypeVar

import httpx2
import psycopg
import uvloop
from obstore.store import MemoryStore
from psycopg import sql

from tests.control_plane import TINY_CONFIG, chat_rows, insert_keys, sha256
from tests.simulation.turns import SteppedDatabase
from tunesmith.service import logs
from tunesmith.service.app import create_app
from tunesmith.service.attempts.claim import claim
from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.database.migrate import upgrade
from tunesmith.service.database.tables import Row
from tunesmith.service.jobs.polling.line import Line
from tunesmith.service.keys.cache import KeyCache
from tunesmith.service.settings import Settings
from tunesmith.service.tokens.measure import measure

T = TypeVar("T")

LEASE_SECONDS = 500.0
HEARTBEAT_SECONDS = 200.0
MOMENT_SECONDS = 100.0  # in which time passes
_BETWEEN_HISTORIES_SECONDS = 1e6  # nothing that the process remembered of the one before is fresh
_CLOCK = """
    CREATE SCHEMA simulation;
    CREATE TABLE simulation.clock (at timestamptz NOT NULL);
    INSERT INTO simulation.clock VALUES ('2026-01-01');
    CREATE FUNCTION simulation.now() RETURNS timestamptz STABLE LANGUAGE plpgsql
      AS 'BEGIN RETURN (SELECT at FROM simulation.clock); END';
"""
_SEARCH_PATH = sql.SQL("ALTER DATABASE {} SET search_path = public, simulation, pg_catalog")
_SET_CLOCK = "UPDATE simulation.clock SET at = %s"
_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_TABLES = [table.name for table in Row.metadata.sorted_tables]
_BASE = {"config.json": json.dumps(TINY_CONFIG).encode(), "model.safetensors": b"tiny-llama"}


@dataclass(frozen=True)
class Request:
    """A message to the service."""

    method: str
    path: str
    key: str
    content: bytes | str = b""
    headers: tuple[tuple[str, str], ...] = ()


class Stage:
    """Over an empty database of its own. It keeps one event loop, because the connections belong to it."""

    def __init__(self, database_url: str) -> None:
        self.seconds = 0.0  # by which the service measures its own waits
        self.at = _BEGIN  # by the database's clock
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)  # as in production
        self.clock = psycopg.connect(database_url, autocommit=True)
        self.clock.execute(_CLOCK)
        self.clock.execute(_SEARCH_PATH.format(sql.Identifier(self.clock.info.dbname)))
        self.clock.execute("SET search_path = public, simulation, pg_catalog")
        upgrade(database_url)
        logs.configure(log_format="console", level="error")
        # Pauses between tries are by chance, and as good as none here: what a history does, its seed alone decides.
        self.settings = Settings(
            database_url=database_url,
            redis_url=None,
            store="memory:///",
            lease_seconds=LEASE_SECONDS,
            heartbeat_seconds=HEARTBEAT_SECONDS,
            retry_seconds=1e-6,
        )
        self.app = create_app(self.settings)
        self._use_own_clock()
        self._beside_the_turns = self.app.state.database  # for looking up keys
        self.database = SteppedDatabase(self._beside_the_turns.engine)
        self.app.state.database = self.database
        with self.clock.transaction():
            self.keys = insert_keys(self.clock)
        self.training_file = self.run(self._furnish())
        self._set_down = self._kept_rows()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """In the stage's event loop, by its clock."""
        with _clocks(lambda: self.seconds):
            return self._runner.run(work)

    async def clear(self) -> None:
        """As it was before the first history: one model, one training file, and a key of every kind."""
        self.clock.execute(self._set_down)
        self.at = _BEGIN
        self.pass_time(0)
        self.seconds += _BETWEEN_HISTORIES_SECONDS
        await self._clear_store()

    def pass_time(self, seconds: float, *, of_database: bool = False) -> None:
        """For everybody; or for the database alone, whose clock is set."""
        self.at += timedelta(seconds=seconds)
        self.clock.execute(_SET_CLOCK, (self.at,))
        if not of_database:
            self.seconds += seconds

    async def ask(self, request: Request) -> httpx2.Response:
        """Hand a request to the application, without what a client and a socket cost."""
        content = request.content.encode() if isinstance(request.content, str) else request.content
        token = self.keys.get(request.key, request.key)
        headers = {"host": "service", "authorization": f"Bearer {token}", "content-length": str(len(content))}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": request.path,
            "raw_path": request.path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(n.encode(), v.encode()) for n, v in (headers | dict(request.headers)).items()],
            "client": ("127.0.0.1", 1),
            "server": ("service", 80),
        }
        sent = [{"type": "http.request", "body": content, "more_body": False}]
        answer: dict[str, Any] = {}
        parts: list[bytes] = []

        async def receive() -> dict[str, Any]:
            return sent.pop() if sent else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.update(message)
            else:
                parts.append(message.get("body", b""))

        await self.app(scope, receive, send)
        return httpx2.Response(answer["status"], content=b"".join(parts))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.database.close())
        self._runner.close()
        self.clock.close()

    def _use_own_clock(self) -> None:
        state = self.app.state
        state.keys = KeyCache(state.database, clock=lambda: 0.0)  # no history is about keys: each is looked up once
        state.line = Line(lambda: state.settings, clock=lambda: self.seconds, now=lambda: self.at)

    async def _furnish(self) -> str:
        files = [{"name": name, "sha256": sha256(data), "bytes": len(data)} for name, data in _BASE.items()]
        model = json.dumps({"name": "tiny-llama", "files": files, "config": TINY_CONFIG})
        json_type = (("content-type", "application/json"),)
        await self._ask_well(Request("POST", "/v1/models", "admin", content=model, headers=json_type))
        for data in _BASE.values():
            await self._ask_well(Request("PUT", f"/v1/blobs/{sha256(data)}", "admin", content=data))
        await self._ask_well(Request("POST", "/v1/models", "admin", content=model, headers=json_type))
        form = httpx2.Request(
            "POST", "http://service", data={"purpose": "fine-tune"}, files={"file": ("rows.jsonl", chat_rows())}
        )
        form_type = (("content-type", form.headers["content-type"]),)
        upload = Request("POST", "/v1/files", "member", content=form.read(), headers=form_type)
        return str((await self._ask_well(upload)).json()["id"])

    async def _ask_well(self, request: Request) -> httpx2.Response:
        answer = await self.ask(request)
        assert answer.is_success, f"{request.path}: {answer.status_code} {answer.text}"
        return answer

    def _kept_rows(self) -> str:
        """Statements that put these rows back, and nothing else."""
        keeps = "".join(f"CREATE TABLE simulation.{name} AS TABLE public.{name};" for name in _TABLES)
        self.clock.execute(keeps)
        deletes = "".join(f"DELETE FROM public.{name};" for name in _TABLES)
        filled = [
            name for name in _TABLES if self.clock.execute(f"SELECT FROM public.{name} LIMIT 1").fetchone() is not None
        ]
        inserts = "".join(f"INSERT INTO public.{name} TABLE simulation.{name};" for name in filled)
        return f"SET session_replication_role = replica; {deletes} {inserts} RESET session_replication_role"

    async def _clear_store(self) -> None:
        self.app.state.blobs = BlobStore(MemoryStore())
        for data in (*_BASE.values(), chat_rows()):
            await self.app.state.blobs.write_bytes(data)


@contextmanager
def _clocks(clock: Callable[[], float]) -> Iterator[None]:
    """Of what the routes call without a clock."""
    defaults: list[dict[str, Any]] = [claim.__kwdefaults__, measure.__kwdefaults__]
    before = [each["clock"] for each in defaults]
    for each in defaults:
        each["clock"] = clock
    try:
        yield
    finally:
        for each, own in zip(defaults, before, strict=True):
            each["clock"] = own
