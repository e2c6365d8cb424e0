"""Wake-ups over HTTP: told at once, to as many as there are jobs for, and waiting costs next to nothing."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import event
from structlog.testing import capture_logs

from tests.control_plane import ControlPlane
from tests.machines import CPU, ONE_GPU
from tests.waiting import eventually
from tunesmith.service.database.transactions import Database
from tunesmith.service.keeper.waiting_jobs import wake_for_waiting_jobs
from tunesmith.service.outbox.delivery import Deliveries, deliver
from tunesmith.service.outbox.store import wake_later
from tunesmith.service.wakes import store
from tunesmith.service.wakes.watcher import WakeWatcher, Woken

CLASS = "cpu-2-cores-16gib"
Watched = Callable[[WakeWatcher, Database], Awaitable[None]]


def ask(plane: ControlPlane, *, seen: int | None = None, wait: float = 0, worker_class: str = CLASS) -> dict[str, int]:
    params: dict[str, Any] = {"worker_class": worker_class, "wait": wait} | ({} if seen is None else {"seen": seen})
    response = plane.request("GET", "/internal/wakes", key="worker", params=params)
    assert response.status_code == 200, response.text
    return dict(response.json())


def watched(plane: ControlPlane, work: Watched) -> None:
    plane.run(lambda database: work(WakeWatcher(database), database))


async def count(database: Database, wakes: int, *, worker_class: str = CLASS) -> None:
    async with database.transaction() as session:
        await store.add(session, {worker_class: wakes})


async def waiting(watcher: WakeWatcher, number: int, *, seen: int = 0) -> list["asyncio.Task[Woken]"]:
    tasks = [asyncio.create_task(watcher.next_wake(CLASS, seen=seen, seconds=20)) for _ in range(number)]
    await until_there_wait(watcher, number)
    return tasks


async def until_there_wait(watcher: WakeWatcher, number: int) -> None:
    while watcher.waiting != number:  # noqa: ASYNC110 - it tells nobody when its number changes
        await asyncio.sleep(0.01)


def test_whoever_has_seen_nothing_is_woken_at_once(plane: ControlPlane) -> None:
    assert ask(plane, wait=30) == {"seen": 0, "wakes": 1}
    assert ask(plane, seen=0) == {"seen": 0, "wakes": 0}


def test_a_new_job_wakes_a_worker_that_waits_for_its_class_and_no_other(control_plane: ControlPlane) -> None:
    control_plane.worker(hardware=CPU)
    assert CPU.worker_class == CLASS
    with ThreadPoolExecutor(2) as pool:
        fits = pool.submit(ask, control_plane, seen=0, wait=30)
        other = pool.submit(ask, control_plane, seen=0, wait=2, worker_class=ONE_GPU.worker_class)
        eventually(lambda: control_plane.app.state.wakes.waiting == 2, what="both wait")
        control_plane.create_job()
        assert fits.result(20) == {"seen": 1, "wakes": 1}
        assert other.result(20) == {"seen": 0, "wakes": 0}


def test_what_came_between_two_requests_is_told_at_once(control_plane: ControlPlane) -> None:
    control_plane.worker(hardware=CPU)
    for _ in range(3):
        control_plane.create_job()
    eventually(lambda: ask(control_plane, seen=0)["wakes"] == 3, what="three wake-ups")


def test_the_keeper_wakes_again_as_many_slots_as_have_a_job(control_plane: ControlPlane) -> None:
    for number in range(3):
        control_plane.worker(f"worker-{number}", hardware=CPU)
    for _ in range(2):
        control_plane.create_job()
    eventually(lambda: ask(control_plane, seen=0)["wakes"] == 2, what="the wake-ups of the two jobs")
    control_plane.keep(wake_for_waiting_jobs)
    assert ask(control_plane, seen=2) == {"seen": 4, "wakes": 2}
    control_plane.keep(wake_for_waiting_jobs)
    assert ask(control_plane, seen=4)["wakes"] == 0


def test_a_broker_that_is_away_keeps_nobody_from_hearing(control_plane: ControlPlane) -> None:
    class Away:
        def wake(self, _worker_class: str) -> bool:
            return False

        def reachable(self) -> bool:
            return False

    control_plane.sql("INSERT INTO outbox (topic, payload) VALUES ('wake', %s)", f'{{"worker_class": "{CLASS}"}}')
    assert control_plane.run(lambda database: deliver(database, Away())) == 0
    assert ask(control_plane, seen=0) == {"seen": 1, "wakes": 1}


def test_what_comes_in_a_burst_is_told_of_together(control_plane: ControlPlane) -> None:
    told: list[str] = []

    class Listener:
        def wake(self, worker_class: str) -> bool:
            told.append(worker_class)
            return True

        def reachable(self) -> bool:
            return True

    async def burst(database: Database) -> None:
        deliveries = Deliveries(database, Listener(), pause_seconds=2)
        for _ in range(10):
            async with database.transaction() as session:
                await wake_later(session, [CLASS])
            await deliveries.soon()
            await asyncio.sleep(0.05)
        while control_plane.sql("SELECT 1 FROM outbox WHERE delivered_at IS NULL"):  # noqa: ASYNC110 - the database tells
            await asyncio.sleep(0.1)

    control_plane.run(burst)
    assert 2 <= len(told) <= 4


def test_one_wake_up_wakes_one_of_many(plane: ControlPlane) -> None:
    async def work(watcher: WakeWatcher, database: Database) -> None:
        tasks = await waiting(watcher, 20)
        await count(database, 1)
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result() for task in done] == [Woken(1, 1)]
        await count(database, 3)
        await until_there_wait(watcher, 16)
        watcher.close()
        assert sorted(woken.wakes for woken in await asyncio.gather(*tasks)) == [0] * 16 + [1] * 4

    watched(plane, work)


def test_one_that_waits_alone_is_told_of_all(plane: ControlPlane) -> None:
    async def work(watcher: WakeWatcher, database: Database) -> None:
        (task,) = await waiting(watcher, 1)
        await count(database, 5)
        assert await task == Woken(5, 5)

    watched(plane, work)


def test_whoever_has_left_gets_no_wake_up(plane: ControlPlane) -> None:
    async def work(watcher: WakeWatcher, database: Database) -> None:
        gone, stays = await waiting(watcher, 2)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert watcher.waiting == 1
        await count(database, 1)
        assert await stays == Woken(1, 1)

    watched(plane, work)


def test_two_hundred_that_wait_share_one_query_at_a_time(plane: ControlPlane) -> None:
    async def work(watcher: WakeWatcher, database: Database) -> None:
        asked: list[float] = []
        tasks = await waiting(watcher, 200)
        event.listen(
            database.engine.sync_engine, "before_cursor_execute", lambda *_rest: asked.append(time.monotonic())
        )
        used, began = time.process_time(), time.monotonic()
        await asyncio.sleep(1.1)  # the time that is measured
        assert len(asked) <= 5
        assert time.process_time() - used < 0.5 * (time.monotonic() - began)
        watcher.close()
        await asyncio.gather(*tasks)

    watched(plane, work)


def test_a_database_that_comes_back_with_less_wakes_everybody(plane: ControlPlane) -> None:
    async def work(watcher: WakeWatcher, database: Database) -> None:
        await count(database, 7)
        tasks = await waiting(watcher, 2, seen=7)
        plane.sql("UPDATE wake_counts SET wakes = 3")
        assert await asyncio.gather(*tasks) == [Woken(3, 1)] * 2

    watched(plane, work)


def test_a_look_that_fails_keeps_nobody_from_hearing_of_the_next_wake_up(plane: ControlPlane) -> None:
    async def work(watcher: WakeWatcher, database: Database) -> None:
        (task,) = await waiting(watcher, 1)
        with capture_logs() as said:
            plane.sql("ALTER TABLE wake_counts RENAME TO elsewhere")
            try:
                while "wakes.look_failed" not in [line["event"] for line in said]:  # noqa: ASYNC110 - a log tells nobody
                    await asyncio.sleep(0.01)
            finally:
                plane.sql("ALTER TABLE elsewhere RENAME TO wake_counts")
        await count(database, 1)
        assert await task == Woken(1, 1)

    watched(plane, work)


def test_a_delivery_that_fails_is_told_and_left_to_the_keeper(plane: ControlPlane) -> None:
    class Odd:
        def wake(self, _worker_class: str) -> bool:
            raise RuntimeError("no thread")

        def reachable(self) -> bool:
            return True

    async def work(database: Database) -> None:
        deliveries = Deliveries(database, Odd())
        async with database.transaction() as session:
            await wake_later(session, [CLASS])
        with capture_logs() as said:
            await deliveries.soon()
            while not said:  # noqa: ASYNC110 - a log tells nobody
                await asyncio.sleep(0.01)
        assert said[0] == {
            "event": "outbox.delivery_postponed",
            "error": "RuntimeError: no thread",
            "log_level": "warning",
        }

    plane.run(work)
    assert plane.sql("SELECT count(*) FROM outbox WHERE delivered_at IS NULL") == [(1,)]


@pytest.mark.parametrize("wait", ["-1", "61", "long"])
def test_a_wait_that_cannot_be_is_refused(plane: ControlPlane, wait: str) -> None:
    refused = plane.request("GET", f"/internal/wakes?worker_class=x&wait={wait}", key="worker")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "wait")
