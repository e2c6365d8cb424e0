"""What the simulated people and machines have between them: the real service, a bad network, a broker, and time."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2
import psycopg

from tests.control_plane import ControlPlane
from tests.simulation.turns import SteppedDatabase
from tunesmith.service.app import create_app
from tunesmith.service.database.transactions import Database, create_engine, now
from tunesmith.service.keeper.chore import KeeperContext
from tunesmith.service.keeper.chores import every_chore
from tunesmith.service.keeper.loop import Keeper
from tunesmith.service.leases import store as leases
from tunesmith.service.leases.steadiness import Steadiness

LEASE_SECONDS = 600.0
MOMENT_SECONDS = 100.0  # time passes in steps that a busy machine cannot fill with real seconds
_TIMES = (
    ("attempts", "lease_expires_at", "ended_at IS NULL"),
    ("api_beats", "beat_at", "true"),
    ("workers", "last_seen_at", "true"),
    ("workers", "woken_at", "true"),
    ("workers", "quarantined_until", "true"),
    ("outbox", "not_before", "delivered_at IS NULL"),
)


@dataclass
class Broker:
    """Carries wake-ups, and loses, doubles and mixes them, or is away."""

    random: random.Random
    is_calm: bool = False
    waiting: list[str] = field(default_factory=list)

    def wake(self, worker_class: str) -> bool:
        copies = 1 if self.is_calm else self.random.choice((-1, 0, 1, 1, 1, 2))
        self.waiting += [worker_class] * copies
        return copies >= 0

    def reachable(self) -> bool:
        return True

    def take(self) -> str:
        return self.waiting.pop(self.random.randrange(len(self.waiting)))


@dataclass(frozen=True)
class Request:
    """A message to the service."""

    method: str
    path: str
    key: str
    content: bytes | str = b""
    headers: tuple[tuple[str, str], ...] = ()


class World:
    """One process of the API, any number of keepers, and the way to them."""

    def __init__(self, plane: ControlPlane, *, random: random.Random, clock: psycopg.Connection) -> None:
        self.plane = plane
        self.random = random
        self.broker = Broker(random)
        self.delayed: list[Request] = []  # copies that are still on their way
        self.is_calm = False
        self.elapsed_seconds = self.served_from_seconds = 0.0
        self._clock = clock
        self._clock_is_off_by = 0.0
        self._steadiness = Steadiness(longest_gap_seconds=LEASE_SECONDS / 4)
        # Pauses between tries are by chance, and as good as none here: what a history does, its seed alone decides.
        intervals = {"lease_seconds": LEASE_SECONDS, "heartbeat_seconds": MOMENT_SECONDS, "retry_seconds": 1e-6}
        self._settings = plane.settings.model_copy(update=intervals)
        self._app = create_app(self._settings)
        self._of_keys: Database = self._app.state.database  # keys are looked up beside the turns
        engine = create_engine(self._settings.database_url, pool_size=10, pool_wait_seconds=5)
        self._app.state.database = self.database = SteppedDatabase(engine)
        self._app.state.announcer = self.broker
        self._http = httpx2.AsyncClient(transport=httpx2.ASGITransport(self._app), base_url="http://service")

    @property
    def is_served(self) -> bool:
        return self.elapsed_seconds >= self.served_from_seconds

    def keeper(self) -> Keeper:
        """Another process of the keeper."""
        state = self._app.state
        context = KeeperContext(self._settings, self.database, self.broker, state.blobs)
        return Keeper(context, every_chore(self._settings), clock=lambda: self.elapsed_seconds)

    async def send(self, request: Request) -> httpx2.Response | None:
        """The answer; None when the request or its answer was lost. Some arrive again, at any later time."""
        fate = "arrives" if self.is_calm else self.random.choices(FATES, weights=(86, 4, 4, 6))[0]
        if fate == "lost" or not self.is_served:
            return None
        if fate == "again":
            self.delayed.append(request)
        answer = await self.deliver(request)
        return None if fate == "answer lost" else answer

    async def deliver(self, request: Request) -> httpx2.Response:
        headers = {"authorization": f"Bearer {self.plane.keys.get(request.key, request.key)}", **dict(request.headers)}
        answer = await self._http.request(request.method, request.path, content=request.content, headers=headers)
        assert answer.status_code < 500, f"{request.path}: {answer.status_code} {answer.text}"
        return answer

    async def pass_time(self) -> None:
        """Time passes, and whoever serves says so."""
        self._move_rows_back(MOMENT_SECONDS)
        self.elapsed_seconds += MOMENT_SECONDS
        if not self.is_served:
            return
        steady = self._steadiness.beat(
            self.elapsed_seconds, database_seconds=self.elapsed_seconds + self._clock_is_off_by
        )
        async with self.database.transaction() as session:
            await leases.record_beat(session, "the-api", at=await now(session), steady_seconds=steady)

    def set_database_clock(self, *, ahead_seconds: float) -> None:
        """The clock of the database jumps."""
        self._move_rows_back(ahead_seconds)
        self._clock_is_off_by += ahead_seconds

    async def close(self) -> None:
        await self._http.aclose()
        await self.database.close()
        await self._of_keys.close()

    def _move_rows_back(self, seconds: float) -> None:
        for table, column, which in _TIMES:
            moved = f"UPDATE {table} SET {column} = {column} - %s * interval '1 second' WHERE {which}"
            self._clock.execute(moved, (seconds,))


FATES = ("arrives", "lost", "answer lost", "again")


@contextmanager
def clock_of(plane: ControlPlane) -> Iterator[psycopg.Connection]:
    """A connection that moves times, beside the service."""
    with psycopg.connect(plane.settings.database_url, autocommit=True) as connection:
        yield connection
