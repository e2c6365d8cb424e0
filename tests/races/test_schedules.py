"""Keepers at the same moment, and keepers that die at any moment: each due time is recorded once and makes one job."""

import asyncio
import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from tests.control_plane import ControlPlane
from tests.service.nightly.nights import Nights, stopped_at
from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.database.transactions import Database, create_engine
from tunesmith.service.schedules.context import ScheduleContext
from tunesmith.service.schedules.decide import Decision, decide_all
from tunesmith.service.schedules.judging.settle import settle_all
from tunesmith.service.schedules.record_due import record_due
from tunesmith.service.schedules.recurrence import Recurrence

_END_JOBS = "UPDATE jobs SET state = 'cancelled', finished_at = now() WHERE state = 'queued'"


class Keepers:
    """Several keepers on one database with a clock that all of them see."""

    def __init__(self, plane: ControlPlane, database: Database, chance: random.Random) -> None:
        self._plane = plane
        self._database = database
        self._chance = chance
        self._blobs = BlobStore.from_url(plane.settings.store)
        self.deaths = 0

    async def sweep(self, at: datetime, *, keepers: int, may_die: bool = False) -> None:
        """All of them at once. One that dies leaves its transaction open, as a killed process does."""
        context = ScheduleContext(self._plane.settings, self._database, self._blobs, clock=stopped_at(at))
        sweeps = [asyncio.create_task(self._sweep(context)) for _ in range(keepers)]
        if may_die:
            for sweep in sweeps:
                asyncio.get_running_loop().call_later(self._chance.uniform(0, 0.2), self._kill, sweep)
        for ending in await asyncio.gather(*sweeps, return_exceptions=True):
            if isinstance(ending, Exception):
                raise ending

    def _kill(self, sweep: asyncio.Task[None]) -> None:
        self.deaths += sweep.cancel()

    async def _sweep(self, context: ScheduleContext) -> None:
        await record_due(context)
        await settle_all(context)
        await decide_all(context)


def test_many_keepers_at_once_make_one_job_for_each_due_time(control_plane: ControlPlane) -> None:
    nights = Nights(control_plane)
    nights.upload()
    for number in range(5):
        nights.create(name=f"schedule-{number}")

    async def race(database: Database) -> None:
        keepers = Keepers(control_plane, database, random.Random(1))
        for at in (nights.at + timedelta(days=1), nights.at + timedelta(days=2)):
            await keepers.sweep(at, keepers=6)
            control_plane.sql(_END_JOBS)

    with_a_pool(control_plane, race)
    per_schedule = control_plane.sql("SELECT schedule_id, count(*), count(job_id) FROM firings GROUP BY 1")
    assert [(firings, jobs) for _, firings, jobs in per_schedule] == [(2, 2)] * 5
    assert control_plane.sql("SELECT count(*), count(DISTINCT labels->>'firing') FROM jobs") == [(10, 10)]


def run_now(nights: Nights, *, times: int) -> list[str]:
    """Ids of so many firings of this moment."""
    nights.upload()
    nights.create()
    answers = [nights.post("/v1/schedules/nightly/run", {"force": True}) for _ in range(times)]
    return [answer.json()["id"] for answer in answers]


def decide_at_once(nights: Nights, firing_ids: list[str]) -> None:
    """As keepers that were held up for so long that others took the same firings."""

    async def race(database: Database) -> None:
        decision = Decision(nights.context(database))
        await asyncio.gather(*(decision.make(firing_id) for firing_id in firing_ids))

    with_a_pool(nights.plane, race)


def test_keepers_that_decide_about_one_firing_at_once_make_one_job(control_plane: ControlPlane) -> None:
    nights = Nights(control_plane)
    decide_at_once(nights, run_now(nights, times=1) * 6)
    assert control_plane.sql("SELECT count(*) FROM jobs") == [(1,)]
    assert [firing["state"] for firing in nights.firings()] == ["submitted"]


def test_several_firings_of_one_schedule_at_once_do_not_overlap(control_plane: ControlPlane) -> None:
    nights = Nights(control_plane)
    decide_at_once(nights, run_now(nights, times=6))
    assert Counter(firing["state"] for firing in nights.firings()) == {"submitted": 1, "skipped": 5}


@pytest.mark.parametrize(
    ("firings", "seed"), [(40, 1), pytest.param(1000, 2, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_no_due_time_of_a_year_is_missed_or_doubled_by_keepers_that_die(
    control_plane: ControlPlane, firings: int, seed: int
) -> None:
    """Twenty schedules, Sundays at an hour that clocks skip and repeat; most keepers are killed in their work."""
    chance = random.Random(seed)
    nights = Nights(control_plane)
    nights.upload()
    zones = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")
    schedules = {
        f"{number:02}-in-{zone.partition('/')[2].lower()}": Recurrence.parse("30 2 * * sun", zone)
        for number, zone in enumerate(zones * 5)
    }
    for name, recurrence in schedules.items():
        nights.create(name=name, cron=recurrence.cron, timezone=recurrence.zone.key, jitter_seconds=60)
    start = nights.at
    expected = sorted((due, name) for name, one in schedules.items() for due in one.between(start, start + year()))
    assert len(expected) >= 1000
    expected = expected[:firings]

    async def live(database: Database) -> int:
        keepers = Keepers(control_plane, database, chance)
        for due in sorted({due for due, _ in expected}):
            at = due + timedelta(seconds=61)
            await keepers.sweep(at, keepers=2, may_die=True)
            await keepers.sweep(at + timedelta(seconds=61), keepers=1)  # another comes when a dead one's hold is over
            control_plane.sql(_END_JOBS)
        return keepers.deaths

    deaths = with_a_pool(control_plane, live)
    assert deaths > len(expected) / 10, "keepers died in the middle of their work"
    end = expected[-1][0]
    found = control_plane.sql(
        "SELECT due_at, name, state, job_id IS NOT NULL FROM firings JOIN schedules ON schedules.id = schedule_id "
        "WHERE due_at <= %s ORDER BY 1, 2",
        end,
    )
    assert [(due.astimezone(UTC), name) for due, name, _, _ in found] == expected
    assert {state for _, _, state, _ in found} <= {"submitted", "cancelled"}
    assert all(has_job for *_, has_job in found)
    assert control_plane.sql("SELECT count(*), count(DISTINCT labels->>'firing') FROM jobs") == [
        (len(expected), len(expected))
    ]


def year() -> timedelta:
    return timedelta(days=365)


def with_a_pool(plane: ControlPlane, work: object) -> int:
    """Run it with connections enough for several keepers."""

    async def inside() -> int:
        database = Database(create_engine(plane.settings.database_url, pool_size=16, pool_wait_seconds=30))
        try:
            return await work(database)  # type: ignore[operator]
        finally:
            await database.close()

    return asyncio.run(inside())
