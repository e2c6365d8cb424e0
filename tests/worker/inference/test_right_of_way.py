"""A claimed job gets its slot from whoever serves there; looking for a job takes it from nobody."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.machines import CPU
from tests.worker.inference.conftest import Host, until
from tunesmith.worker.machine.slot_use import Serving, StillServing
from tunesmith.worker.machine.slots import Slots


def serving(tmp_path: Path) -> Serving:
    return Serving.about_to_begin(CPU, mark=tmp_path / "serving", grace_seconds=0.1)


def test_a_job_makes_engines_leave_and_is_followed_by_them(host: Host) -> None:
    async def story() -> None:
        base = host.base()
        async with host.serving(grace_seconds=0.2):
            assert (await host.ask(base)).status == 200
            slow = asyncio.create_task(host.ask(base, to="slowly 400", stream=True))
            await until(lambda: host.gateway.open_requests == 1)
            use = host.slots.use(0)
            attempt = host.slots.acquire()  # an attempt that looks for a job: nobody minds
            assert attempt is not None
            assert host.engine_pids()
            attempt.also_hold(await asyncio.to_thread(use.take_to_train, pytest.fail))
            assert host.engine_pids() == []
            assert (await slow).events[-1]["error"]["code"] == "training_comes_first"
            assert host.engines.doing() == "training"
            refused = await host.ask(base)
            assert (refused.status, refused.error["code"]) == (503, "training_comes_first")
            assert refused.head["retry_after_seconds"] > 1
            attempt.release()
            assert (await host.ask(base)).status == 200

    asyncio.run(story())


def test_a_look_that_fails_does_not_keep_the_slot_from_jobs(host: Host) -> None:
    async def story() -> None:
        async with host.serving():
            assert (await host.ask(host.base())).status == 200
            with capture_logs() as said:
                locks = host.root.rename(host.root.with_name("away"))
                await until(lambda: [line["event"] for line in said] == ["engines.look_failed"] * 2)
                locks.rename(host.root)
            held = await asyncio.to_thread(host.slots.use(0).take_to_train, pytest.fail)
            assert host.engine_pids() == []
            for descriptor in held:
                os.close(descriptor)

    asyncio.run(story())


def test_answers_under_way_may_end_within_the_grace(host: Host) -> None:
    async def story() -> None:
        base = host.base()
        async with host.serving(grace_seconds=20):
            await host.ask(base)
            last = asyncio.create_task(host.ask(base, to="slowly 10", stream=True))
            await until(lambda: host.gateway.open_requests == 1)
            held = await asyncio.to_thread(host.slots.use(0).take_to_train, pytest.fail)
            assert (await last).events[-1] == "[DONE]"
            for descriptor in held:
                os.close(descriptor)

    asyncio.run(story())


def test_engines_of_a_gateway_that_is_killed_end_with_it(tmp_path: Path) -> None:
    child = (
        "import subprocess, sys, os;"
        "command = [sys.executable, '-m', 'tunesmith.worker.inference.child', str(os.getpid()), 'sleep', '60'];"
        "p = subprocess.Popen(command); print(p.pid, flush=True); p.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True) as gateway:
        assert gateway.stdout is not None
        engine = os.pidfd_open(int(gateway.stdout.readline()))
        gateway.kill()
    asyncio.run(_ends(engine))


async def _ends(process: int) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(process, ended.set)
    await ended.wait()
    os.close(process)


def test_what_engines_hold_counts_as_free_for_a_claim(tmp_path: Path) -> None:
    use = Slots(tmp_path, (("cpu-0",),)).use(0)
    full = CPU.model_copy(update={"cpu": CPU.cpu.model_copy(update={"memory_free_bytes": 5})})
    assert use.at_rest(full) == full
    held = use.take_to_serve(serving(tmp_path))
    assert held is not None
    assert use.at_rest(full).cpu.memory_free_bytes == CPU.cpu.memory_free_bytes
    for descriptor in held:
        os.close(descriptor)
    assert use.at_rest(full) == full


def test_nobody_begins_to_serve_while_a_job_waits_or_trains(tmp_path: Path) -> None:
    use = Slots(tmp_path, (("cpu-0",),)).use(0)
    with use._wanting():
        assert use.is_wanted()
        assert use.take_to_serve(serving(tmp_path)) is None
    trained = use.take_to_train(pytest.fail)
    assert use.take_to_serve(serving(tmp_path)) is None
    for descriptor in trained:
        os.close(descriptor)
    assert use.is_free()


def test_a_gateway_that_does_not_leave_is_ended(tmp_path: Path) -> None:
    use = Slots(tmp_path, (("cpu-0",),)).use(0)
    script = (
        "import sys, time; from pathlib import Path; from tunesmith.worker.machine.slots import Slots;"
        "from tests.machines import CPU; from tunesmith.worker.machine.slot_use import Serving;"
        "root = Path(sys.argv[1]);"
        "held = Slots(root, (('cpu-0',),)).use(0).take_to_serve("
        "Serving.about_to_begin(CPU, mark=root, grace_seconds=0.1)); print('serves', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]) as gateway:
        assert gateway.stdout is not None
        assert gateway.stdout.readline() == "serves\n"
        gateway.send_signal(signal.SIGSTOP)
        hours = iter(range(0, 10**6, 3600))
        taken = use.take_to_train(lambda found: (found.kill(), gateway.wait(10)), clock=lambda: next(hours))
        assert gateway.returncode == -signal.SIGKILL
    for descriptor in taken:
        os.close(descriptor)


def test_a_slot_that_nothing_frees_is_said_to_be_so(tmp_path: Path) -> None:
    use = Slots(tmp_path, (("cpu-0",),)).use(0)
    held = use.take_to_serve(serving(tmp_path))
    assert held is not None
    hours = iter(range(0, 10**6, 3600))
    with pytest.raises(StillServing):
        use.take_to_train(lambda _: None, clock=lambda: next(hours))
    for descriptor in held:
        os.close(descriptor)
