"""What the simulated people and machines have between them: the real service, a bad network, a broker, and time."""

import random
import re
from dataclasses import dataclass, field

import httpx2

from tests.simulation.stage import LEASE_SECONDS, MOMENT_SECONDS, Request, Stage
from tunesmith.service.keeper.chore import KeeperContext
from tunesmith.service.keeper.chores import every_chore, store_chores
from tunesmith.service.keeper.loop import Keeper
from tunesmith.service.leases import store as leases
from tunesmith.service.leases.steadiness import Steadiness
from tunesmith.service.outbox.delivery import deliver

_ID = re.compile(r"[0-9a-f]{32,}|(?<=::)[0-9a-f]{8}")


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


class World:
    """One process of the API, any number of keepers, and the way to them. `lines` is what happened."""

    def __init__(self, stage: Stage, *, random: random.Random) -> None:
        self.random = random
        self.lines: list[str] = []
        self.broker = Broker(random)
        self.delayed: list[Request] = []  # copies that are still on their way
        self.has_news = False  # of which the API has yet to tell the broker
        self.is_calm = False
        self.elapsed_seconds = self.served_from_seconds = 0.0
        self._stage = stage
        self._clock_is_off_by = 0.0
        self._steadiness = Steadiness(longest_gap_seconds=LEASE_SECONDS / 4)
        self._numbers: dict[str, int] = {}  # of ids, in the order of their first use
        stage.app.state.deliveries = _News(self)

    @property
    def is_served(self) -> bool:
        return self.elapsed_seconds >= self.served_from_seconds

    def note(self, line: str) -> None:
        """With a number for each id, which is another one each time that a history is played."""
        self.lines.append(_ID.sub(lambda found: str(self._numbers.setdefault(found[0], len(self._numbers) + 1)), line))

    def keeper(self) -> Keeper:
        """Another process of the keeper."""
        stage = self._stage
        context = KeeperContext(stage.settings, stage.database, self.broker, stage.app.state.blobs)
        return Keeper(context, every_chore(stage.settings) + store_chores(), clock=lambda: self.elapsed_seconds)

    async def tell_news(self) -> None:
        """What the API does after the answer to a create request, or never when it is killed before."""
        await deliver(self._stage.database, self.broker)

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
        answer = await self._stage.ask(request)
        self.note(f"{request.method} {request.path}: {answer.status_code}")
        assert answer.status_code < 500, f"{request.path}: {answer.status_code} {answer.text}"
        return answer

    def tick(self) -> None:
        """No two transactions at the same instant."""
        self._stage.pass_time(0.001)

    async def pass_time(self) -> None:
        """Time passes, and whoever serves says so."""
        self._stage.pass_time(MOMENT_SECONDS)
        self.elapsed_seconds += MOMENT_SECONDS
        if not self.is_served:
            return
        steady = self._steadiness.beat(
            self.elapsed_seconds, database_seconds=self.elapsed_seconds + self._clock_is_off_by
        )
        async with self._stage.database.transaction() as session:
            await leases.record_beat(session, "the-api", at=self._stage.at, steady_seconds=steady)

    def set_database_clock(self, *, ahead_seconds: float) -> None:
        """The clock of the database jumps."""
        self._stage.pass_time(ahead_seconds, of_database=True)
        self._clock_is_off_by += ahead_seconds


@dataclass
class _News:
    """The API's own deliveries: as an act of their own, so that the seed decides when, and whether."""

    world: World

    async def soon(self) -> None:
        self.world.has_news = True


FATES = ("arrives", "lost", "answer lost", "again")
