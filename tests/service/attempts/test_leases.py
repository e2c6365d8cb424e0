"""A lease ends when its worker is gone, and not when nobody could have renewed it."""

import asyncio
import time
from collections.abc import Iterator, Sequence

import psycopg
import pytest
import structlog

from tests.control_plane import AttemptSide, ControlPlane
from tests.service.test_monitoring import labelled, scrape
from tests.waiting import eventually
from tunesmith.service.app import create_app
from tunesmith.service.database.transactions import Database
from tunesmith.service.keeper import expired_leases
from tunesmith.service.keeper.chore import KeeperContext
from tunesmith.service.keeper.chores import every_chore
from tunesmith.service.keeper.expired_leases import HoldNotice, end_expired_leases
from tunesmith.service.keeper.loop import Keeper
from tunesmith.service.leases.beat import ApiBeat
from tunesmith.service.leases.steadiness import Steadiness

LEASE_SECONDS = 60.0


class Site:
    """A control plane whose API has served for long, and whose time passes when the test says so."""

    def __init__(self, plane: ControlPlane, connection: psycopg.Connection) -> None:
        self.plane = plane
        self._sql = connection.execute
        self._steadiness = Steadiness(longest_gap_seconds=LEASE_SECONDS / 4)
        self._moment, self._clock_is_off_by = 0.0, 0.0
        for self._moment in range(0, 200, 10):
            self.serve()

    def serve(self) -> None:
        """The API beats."""
        steady = self._steadiness.beat(self._moment, database_seconds=self._moment + self._clock_is_off_by)
        self._sql("DELETE FROM api_beats WHERE process = 'the-api'")
        self._sql("INSERT INTO api_beats VALUES ('the-api', now(), %s)", (steady,))

    def pass_time(self, seconds: float, *, renewing: Sequence[AttemptSide] = (), serving: bool = True) -> int:
        """In steps of ten seconds: beats and renewals while the API serves, and a sweep of the keeper.

        Returns how many attempts the keeper ended.
        """

        async def steps(context: KeeperContext) -> int:
            ended = 0
            for _ in range(int(seconds / 10)):
                self._step(renewing, serving=serving)
                ended += await end_expired_leases(context)
            return ended

        return self.plane.keep(steps)

    def set_database_clock(self, *, ahead_seconds: float) -> None:
        """The clock of the database jumps."""
        self._move_rows_back(ahead_seconds)
        self._clock_is_off_by += ahead_seconds

    def _step(self, renewing: Sequence[AttemptSide], *, serving: bool) -> None:
        self._move_rows_back(10)
        self._moment += 10
        if not serving:
            return
        self.serve()
        renewed = [attempt.claim.attempt_id for attempt in renewing]
        self._sql("UPDATE attempts SET lease_expires_at = now() + interval '60 s' WHERE id = ANY(%s)", (renewed,))

    def _move_rows_back(self, seconds: float) -> None:
        later = "lease_expires_at = lease_expires_at - %s * interval '1 second'"
        self._sql(f"UPDATE attempts SET {later} WHERE ended_at IS NULL", (seconds,))
        self._sql("UPDATE api_beats SET beat_at = beat_at - %s * interval '1 second'", (seconds,))


@pytest.fixture
def site(control_plane: ControlPlane) -> Iterator[Site]:
    with psycopg.connect(control_plane.settings.database_url, autocommit=True) as connection:
        yield Site(control_plane, connection)


def claimed_by_each(plane: ControlPlane, count: int) -> tuple[AttemptSide, ...]:
    file = plane.upload()
    return tuple(plane.claimed(f"worker-{number}", training_file=file) for number in range(count))


def losses(plane: ControlPlane) -> int:
    return int(plane.sql("SELECT count(*) FROM attempts WHERE outcome = 'lost'")[0][0])


def test_an_api_that_is_silent_for_two_leases_and_comes_back_four_times_ends_no_run(site: Site) -> None:
    runs = claimed_by_each(site.plane, 1)
    for _ in range(4):
        assert site.pass_time(2 * LEASE_SECONDS, serving=False) == 0
        site.serve()
        assert site.plane.keep(end_expired_leases) == 0, "before anybody could renew"
        assert site.pass_time(LEASE_SECONDS + 20, renewing=runs) == 0
    assert losses(site.plane) == 0


def test_a_database_clock_that_jumps_an_hour_ahead_ends_no_run(site: Site) -> None:
    runs = claimed_by_each(site.plane, 1)
    site.set_database_clock(ahead_seconds=3600)
    assert site.plane.keep(end_expired_leases) == 0
    site.serve()
    assert site.plane.keep(end_expired_leases) == 0, "the API beats before a worker does"
    assert site.pass_time(2 * LEASE_SECONDS, renewing=runs) == 0


def test_a_database_clock_that_was_set_back_ends_no_run_by_beats_that_lie_ahead(site: Site) -> None:
    claimed_by_each(site.plane, 1)
    site.plane.sql("INSERT INTO api_beats VALUES ('ended', now() + interval '1 hour', 3600)")
    assert site.plane.keep(end_expired_leases) == 0


def test_a_lone_worker_that_is_dead_is_found_within_ninety_seconds(site: Site) -> None:
    (run,) = claimed_by_each(site.plane, 1)
    assert site.pass_time(50) == 0
    assert site.pass_time(40) == 1
    assert site.plane.job(run.job_id)["status"] == "queued"


def test_a_dead_worker_among_many_is_found_and_the_others_go_on(site: Site) -> None:
    dead, *alive = claimed_by_each(site.plane, 5)
    assert site.pass_time(90, renewing=alive) == 1
    assert site.plane.job(dead.job_id)["status"] == "queued"


@pytest.mark.parametrize(("dead", "alive"), [(2, 0), (3, 4)])
def test_workers_that_die_together_get_one_lease_more(site: Site, dead: int, alive: int) -> None:
    runs = claimed_by_each(site.plane, dead + alive)
    assert site.pass_time(110, renewing=runs[dead:]) == 0
    assert site.pass_time(20, renewing=runs[dead:]) == dead


def test_workers_that_are_heard_again_within_the_lease_more_lose_nothing(site: Site) -> None:
    runs = claimed_by_each(site.plane, 3)
    assert site.pass_time(100) == 0
    assert site.pass_time(LEASE_SECONDS * 2, renewing=runs) == 0


def test_a_worker_with_one_silent_attempt_among_others_loses_that_one(control_plane: ControlPlane) -> None:
    worker = control_plane.worker()
    file = control_plane.upload()
    control_plane.create_job(training_file=file)
    control_plane.create_job(training_file=file)
    silent, beating = worker.claim(), worker.claim()
    assert silent is not None
    assert beating is not None
    control_plane.expire_leases()
    beating.heartbeat()
    assert control_plane.keep(end_expired_leases) == 1
    assert beating.heartbeat().status_code == 200


class TestHolds:
    @pytest.fixture
    def logged(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, object]]]:
        with structlog.testing.capture_logs() as lines:
            # One of another test's configuration may be cached.
            monkeypatch.setattr(expired_leases, "log", structlog.get_logger())
            yield lines

    def test_a_hold_is_told_once_and_so_is_its_end(
        self, control_plane: ControlPlane, logged: list[dict[str, object]]
    ) -> None:
        control_plane.claimed()
        notice = HoldNotice()
        control_plane.expire_leases()
        control_plane.serve_steadily(for_seconds=5)
        for _ in range(3):
            control_plane.keep(notice.look)
        control_plane.serve_steadily()
        for _ in range(3):
            control_plane.keep(notice.look)
        told = [line for line in logged if str(line["event"]).startswith("leases.")]
        assert [(line["event"], line.get("because")) for line in told] == [
            ("leases.held", "no_steady_api"),
            ("leases.released", None),
        ]

    def test_a_keeper_looks_for_holds(self, control_plane: ControlPlane, logged: list[dict[str, object]]) -> None:
        control_plane.claimed()
        control_plane.expire_leases()
        control_plane.serve_steadily(for_seconds=5)

        async def sweep(context: KeeperContext) -> None:
            await Keeper(context, every_chore(context.settings)).sweep()

        control_plane.keep(sweep)
        assert "leases.held" in [line["event"] for line in logged]

    @pytest.mark.parametrize(("workers", "steady", "because"), [(1, 5, "no_steady_api"), (2, 3600, "many_silent")])
    def test_monitoring_shows_it(self, control_plane: ControlPlane, workers: int, steady: float, because: str) -> None:
        claimed_by_each(control_plane, workers)
        control_plane.serve_steadily()
        assert scrape(control_plane)[labelled("tunesmith_leases_held", because=because)] == 0
        control_plane.expire_leases()
        control_plane.serve_steadily(for_seconds=steady)
        found = scrape(control_plane)
        assert found[labelled("tunesmith_leases_held", because=because)] == 1
        assert found[labelled("tunesmith_leases_overdue")] == workers


class TestBeats:
    def test_a_process_is_steady_since_its_last_gap(self) -> None:
        steadiness = Steadiness(longest_gap_seconds=15)
        beats = [0.0, 10.0, 25.0, 41.0, 50.0]
        assert [steadiness.beat(at, database_seconds=at) for at in beats] == [0, 10, 25, 0, 9]

    @pytest.mark.parametrize("jump", [3600.0, -3600.0])
    def test_a_clock_that_jumps_either_way_is_a_gap(self, jump: float) -> None:
        steadiness = Steadiness(longest_gap_seconds=15)
        steadiness.beat(0.0, database_seconds=0.0)
        assert steadiness.beat(10.0, database_seconds=10.0) == 10
        assert steadiness.beat(12.0, database_seconds=12.0 + jump) == 0
        assert steadiness.beat(14.0, database_seconds=14.0 + jump) == 2

    def test_an_event_loop_that_is_blocked_does_not_beat_and_starts_anew(self, control_plane: ControlPlane) -> None:
        async def blocked(database: Database) -> float:
            beat = ApiBeat(database, every_seconds=0.02, lease_seconds=1)
            stop = asyncio.Event()
            beating = asyncio.create_task(beat.run(stop))
            await asyncio.sleep(0.1)
            time.sleep(0.4)  # noqa: ASYNC251 - a request that keeps the loop
            await asyncio.sleep(0.1)
            stop.set()
            await beating
            return float(control_plane.sql("SELECT max(steady_seconds) FROM api_beats")[0][0])

        assert control_plane.run(blocked) < 0.4

    def test_an_api_beats_while_it_serves(self, control_plane: ControlPlane) -> None:
        async def serve(database: Database) -> list[float]:
            beat = ApiBeat(database, every_seconds=0.02, lease_seconds=60)
            return [await beat.beat() for _ in range(3)]

        first, *later = control_plane.run(serve)
        assert first == 0
        assert later == sorted(later)
        assert control_plane.sql("SELECT count(*), max(beat_at) <= now() FROM api_beats") == [(1, True)]

    def test_the_application_beats_while_it_lives(self, control_plane: ControlPlane) -> None:
        app = create_app(control_plane.settings.model_copy(update={"api_beat_seconds": 0.02}))

        def steady() -> bool:
            return control_plane.sql("SELECT count(*) FROM api_beats WHERE steady_seconds > 0") == [(1,)]

        async def serve() -> None:
            async with app.router.lifespan_context(app):
                await asyncio.to_thread(eventually, steady, what="a process that beats")

        asyncio.run(serve())
