"""The keeper: lost workers, lost wake-ups, and restarts of what it stands on."""

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from redis import Redis

from tests.control_plane import TINY_CONFIG, ControlPlane
from tests.machines import ONE_GPU
from tests.waiting import eventually
from tunesmith.service.announcer import CeleryAnnouncer
from tunesmith.service.keeper.chore import Chore, KeeperContext
from tunesmith.service.keeper.chores import deliver_outbox, every_chore, store_chores
from tunesmith.service.keeper.expired_leases import end_expired_leases
from tunesmith.service.keeper.loop import Keeper
from tunesmith.service.keeper.waiting_jobs import wake_for_waiting_jobs
from tunesmith.service.outbox.delivery import deliver
from tunesmith.tuning.messages import wake_queue

CPU_QUEUE = wake_queue("cpu-2-cores-16gib")


def redis(plane: ControlPlane) -> "Redis[bytes]":
    url = str(plane.settings.redis_url).replace("redis+socket://", "unix://")
    return Redis.from_url(url.split("?")[0])


def wake_ups(plane: ControlPlane, queue: str = CPU_QUEUE) -> int:
    """Empty the queue and count what was in it."""
    with redis(plane) as client:
        count = int(client.llen(queue))  # type: ignore[arg-type]
        client.delete(queue)
    return count


def wake(plane: ControlPlane) -> set[str]:
    return plane.keep(wake_for_waiting_jobs)


async def sweep(context: KeeperContext) -> None:
    """One round of a keeper that has just started."""
    await Keeper(context, every_chore(context.settings) + store_chores()).sweep()


def test_a_keeper_shows_that_it_lives_after_each_sweep_that_worked(plane: ControlPlane, tmp_path: Path) -> None:
    file = tmp_path / "alive"

    async def run(context: KeeperContext) -> None:
        stop = asyncio.Event()

        async def fail(_context: KeeperContext) -> None:
            stop.set()
            raise OSError

        async def work(_context: KeeperContext) -> None:
            stop.set()

        settings = context.settings.model_copy(update={"keeper_alive_file": file, "keeper_seconds": 0.001})
        for do in (fail, work):
            assert not file.exists()
            await Keeper(replace(context, settings=settings), [Chore("it", do, every_seconds=0)]).run(stop)
            stop.clear()

    plane.keep(run)
    assert file.exists()


class TestLostWorkers:
    def test_an_expired_lease_ends_the_attempt_and_requeues_the_job(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        control_plane.expire_leases()
        assert control_plane.keep(end_expired_leases) == 1
        assert control_plane.job(attempt.job_id)["status"] == "queued"
        assert control_plane.sql("SELECT outcome FROM attempts") == [("lost",)]
        assert "has not been heard of for 60 s" in control_plane.messages(attempt.job_id)[-1]
        assert attempt.heartbeat().status_code == 409

    def test_a_renewed_lease_is_left_alone(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        control_plane.expire_leases()
        attempt.heartbeat()
        assert control_plane.keep(end_expired_leases) == 0

    def test_a_cancelled_job_whose_worker_is_lost_is_cancelled(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        control_plane.request("POST", f"/v1/fine_tuning/jobs/{attempt.job_id}/cancel")
        control_plane.expire_leases()
        control_plane.keep(end_expired_leases)
        assert control_plane.job(attempt.job_id)["status"] == "cancelled"

    def test_a_sweep_ends_the_lease_of_a_dead_worker(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        control_plane.expire_leases()
        control_plane.keep(sweep)
        assert control_plane.job(attempt.job_id)["status"] == "queued"


class TestWaking:
    def test_a_submit_wakes_the_classes_that_fit(self, control_plane: ControlPlane) -> None:
        control_plane.worker()
        wake_ups(control_plane)
        control_plane.create_job()
        eventually(lambda: control_plane.sql("SELECT count(*) FROM outbox WHERE delivered_at IS NULL") == [(0,)])
        assert wake_ups(control_plane) == 1

    def test_a_lost_wake_up_is_sent_again_but_not_all_the_time(self, control_plane: ControlPlane) -> None:
        control_plane.create_job()
        control_plane.worker()
        wake_ups(control_plane)
        assert wake(control_plane) == {"cpu-2-cores-16gib"}
        assert wake(control_plane) == set()
        control_plane.sql("UPDATE workers SET woken_at = now() - interval '16 seconds'")
        assert wake(control_plane) == {"cpu-2-cores-16gib"}
        assert wake_ups(control_plane) == 2

    def test_busy_draining_silent_and_unfit_workers_are_not_woken(self, control_plane: ControlPlane) -> None:
        control_plane.create_job(tunesmith={"method": "qlora"})
        worker = control_plane.worker()
        worker.beat(busy_slots=1)
        assert wake(control_plane) == set()
        worker.beat(draining=True)
        assert wake(control_plane) == set()
        worker.beat()
        control_plane.sql("UPDATE workers SET last_seen_at = now() - interval '5 minutes'")
        assert wake(control_plane) == set()
        worker.beat()
        assert wake(control_plane) == {"cpu-2-cores-16gib"}

    def test_a_reason_to_wait_is_told_once_and_taken_back_when_a_worker_comes(
        self, control_plane: ControlPlane
    ) -> None:
        job_id = control_plane.create_job()["id"]
        for _ in range(3):
            wake(control_plane)
        assert sum(message.startswith("Waiting:") for message in control_plane.messages(job_id)) == 1
        control_plane.worker("gpu", hardware=ONE_GPU)
        wake(control_plane)
        assert control_plane.sql("SELECT waiting_reason FROM jobs") == [(None,)]

    def test_of_two_jobs_with_different_models_only_the_one_that_fits_no_worker_is_given_a_reason(
        self, control_plane: ControlPlane
    ) -> None:
        large = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
        control_plane.add_model("large-llama", config={**TINY_CONFIG, **large})
        file = control_plane.upload()
        job_ids = [
            control_plane.create_job(model=name, training_file=file)["id"] for name in ("tiny-llama", "large-llama")
        ]
        control_plane.worker()
        wake(control_plane)
        reasons = dict(control_plane.sql("SELECT id, waiting_reason FROM jobs"))
        tiny_reason, large_reason = [reasons[job_id] for job_id in job_ids]
        assert tiny_reason is None
        assert large_reason.startswith("cpu-2-cores-16gib: ")

    def test_what_the_api_could_not_deliver_the_keeper_delivers(self, control_plane: ControlPlane) -> None:
        wake_ups(control_plane, "wake.some-class")
        control_plane.sql("""INSERT INTO outbox (topic, payload) VALUES ('wake', '{"worker_class": "some-class"}')""")
        control_plane.keep(sweep)
        assert wake_ups(control_plane, "wake.some-class") == 1
        control_plane.keep(sweep)
        assert wake_ups(control_plane, "wake.some-class") == 0

    def test_a_message_counts_as_delivered_when_it_was_sent_and_not_before(self, control_plane: ControlPlane) -> None:
        control_plane.sql("""INSERT INTO outbox (topic, payload) VALUES ('wake', '{"worker_class": "some-class"}')""")
        waiting = "SELECT count(*) FROM outbox WHERE delivered_at IS NULL"

        async def without_a_broker(context: KeeperContext) -> int:
            return await deliver(context.database, CeleryAnnouncer("redis://127.0.0.1:1"))

        assert control_plane.keep(without_a_broker) == 0
        assert control_plane.sql(waiting) == [(1,)]
        control_plane.sql("UPDATE outbox SET not_before = now()")
        assert control_plane.keep(deliver_outbox) == 1
        assert control_plane.sql(waiting) == [(0,)]


def hurried(context: KeeperContext) -> KeeperContext:
    """Sweeps without a pause."""
    return replace(context, settings=context.settings.model_copy(update={"keeper_seconds": 0.001}))


class Doing:
    """Chores that note when they are done, at the times of a clock that tests move."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.moment = 1000.0

    def chore(self, name: str, *, every_seconds: float = 0) -> Chore:
        async def note(_context: KeeperContext) -> None:
            self.done.append(name)

        return Chore(name, note, every_seconds=every_seconds)

    def failing(self, error: Exception) -> Chore:
        async def fail(_context: KeeperContext) -> None:
            raise error

        return Chore("fail", fail, every_seconds=0)

    def sweep_at(self, plane: ControlPlane, chores: list[Chore], *, moments: list[float]) -> list[list[str]]:
        """What each sweep of one keeper did; one that the loop would catch ends with `away`."""

        async def sweeps(context: KeeperContext) -> list[list[str]]:
            keeper = Keeper(hurried(context), chores, clock=lambda: self.moment)
            found = []
            for self.moment in moments:
                self.done = []
                try:
                    await keeper.sweep()
                except OSError:
                    self.done.append("away")
                found.append(self.done)
            return found

        return plane.keep(sweeps)


class TestLoop:
    def test_a_chore_is_done_when_its_interval_is_over(self, control_plane: ControlPlane) -> None:
        doing = Doing()
        chores = [doing.chore("often", every_seconds=5), doing.chore("seldom", every_seconds=600)]
        found = doing.sweep_at(control_plane, chores, moments=[1000, 1004, 1005, 1599, 1600])
        assert found == [["often", "seldom"], [], ["often"], ["often"], ["seldom"]]

    def test_a_chore_that_fails_over_an_odd_row_keeps_no_other_from_being_done(
        self, control_plane: ControlPlane
    ) -> None:
        doing = Doing()
        chores = [doing.failing(RuntimeError("odd row")), doing.chore("next")]
        assert doing.sweep_at(control_plane, chores, moments=[1000, 1005]) == [["next"], ["next"]]

    def test_a_sweep_ends_when_the_database_is_away(self, control_plane: ControlPlane) -> None:
        doing = Doing()
        chores = [doing.failing(ConnectionRefusedError()), doing.chore("next")]
        assert doing.sweep_at(control_plane, chores, moments=[1000, 1005]) == [["away"], ["away"]]

    def test_the_keeper_goes_on_after_the_database_was_away(self, control_plane: ControlPlane) -> None:
        stop, sweeps = asyncio.Event(), 0

        async def look(_context: KeeperContext) -> None:
            nonlocal sweeps
            sweeps += 1
            if sweeps == 2:
                raise ConnectionRefusedError
            if sweeps == 4:
                stop.set()

        async def run(context: KeeperContext) -> None:
            await Keeper(hurried(context), [Chore("look", look, every_seconds=0)]).run(stop)

        control_plane.keep(run)
        assert sweeps == 4


def test_a_sweep_deletes_bytes_that_nothing_refers_to(control_plane: ControlPlane) -> None:
    file = control_plane.claimed().put(b"nobody's")
    control_plane.sql("UPDATE blobs SET kept_until = now() - interval '1 minute' WHERE sha256 = %s", file.sha256)
    control_plane.keep(sweep)
    assert control_plane.sql("SELECT count(*) FROM blobs WHERE sha256 = %s", file.sha256) == [(0,)]


def test_the_list_of_chores_names_each_once(control_plane: ControlPlane) -> None:
    chores = every_chore(control_plane.settings) + store_chores()
    assert len({chore.name for chore in chores}) == len(chores)


def test_the_keeper_process_works_and_stops_cleanly_on_sigterm(control_plane: ControlPlane, tmp_path: Path) -> None:
    settings = control_plane.settings
    environment = {
        **os.environ,
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": str(settings.redis_url),
        "TUNESMITH_STORE": settings.store,
        "TUNESMITH_KEEPER_SECONDS": "0.1",
        "TUNESMITH_LOG_FORMAT": "json",
    }
    control_plane.sql("""INSERT INTO outbox (topic, payload) VALUES ('wake', '{"worker_class": "process"}')""")
    log = tmp_path / "log"
    with log.open("wb") as output:
        command = [sys.executable, "-c", "from tunesmith.service.cli import main; main()", "keeper"]
        process = subprocess.Popen(command, env=environment, stderr=output)
    try:
        eventually(lambda: wake_ups(control_plane, "wake.process") == 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert '"event": "keeper.stopped"' in log.read_text()
    assert settings.database_url not in log.read_text()
