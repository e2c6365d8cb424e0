"""A trainer forked from the warm process is a process like any other, and the worker can always do without the fork."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.waiting import eventually
from tests.worker.trainer_process.test_launcher import never
from tunesmith.tuning.plan import Plan
from tunesmith.worker.machine.slots import Slot, Slots
from tunesmith.worker.run_directory import RunDirectory
from tunesmith.worker.trainer_process import warm as warm_module
from tunesmith.worker.trainer_process.launcher import Trainer, launch, trainer_environment
from tunesmith.worker.trainer_process.processes import (
    STATUS_LOST,
    AdoptedProcess,
    adopt_orphans,
    bury_orphans,
    end_leftovers,
    mark_of,
    tree,
)
from tunesmith.worker.trainer_process.warm import MOST_FAILURES, WarmTrainer

LIGHT = (sys.executable, str(Path(__file__).with_name("light_warm.py")))
PLAN = Plan.model_construct(world_size=1)
SLEEPS = "import time; open('ready', 'w').close(); time.sleep(600)"


@pytest.fixture(scope="module")
def warm() -> Iterator[WarmTrainer]:
    yield from kept(*LIGHT)
    adopt_orphans(adopt=False)


def kept(*command: str) -> Iterator[WarmTrainer]:
    environment = trainer_environment(os.environ, run_dir=Path("/nowhere"), cores=1, devices=())
    trainer = WarmTrainer(environment=environment, command=command)
    trainer.keep()
    yield trainer
    trainer.close()
    bury_orphans(but=())


Begin = Callable[..., Trainer]


@pytest.fixture
def begin(tmp_path: Path, warm: WarmTrainer) -> Iterator[Begin]:
    (tmp_path / "trainers").mkdir()
    (tmp_path / "slots").mkdir()
    warm.keep()
    started: list[Trainer] = []

    def begin(script: str, *, slot: Slot | None = None, trainer: WarmTrainer = warm, **changes: object) -> Trainer:
        run = RunDirectory(tmp_path / "runs" / f"run-{len(started)}")
        run.root.mkdir(parents=True)
        (run.root / "job.py").write_text(script)
        options = {"cores": 1, "devices": (), "records": tmp_path / "trainers", "log_cap_bytes": 64 * 1024}
        options |= {"plan": PLAN, "slot": slot or Slot(0), "warm": trainer, **changes}
        started.append(launch(run, **options))
        return started[-1]

    yield begin
    for trainer in started:
        trainer.end()


def ended(trainer: Trainer) -> int:
    eventually(lambda: trainer.exit_code is not None)
    return trainer.end()


def ready(trainer: Trainer) -> bool:
    return (trainer.run.root / "ready").exists()


def slots_in(tmp_path: Path) -> Slots:
    return Slots(tmp_path / "slots", (("cpu-0",),))


def said(trainer: Trainer) -> str:
    return trainer.run.log.read_text()


class TestAForkIsAProcessLikeAnyOther:
    def test_it_is_the_workers_own_child_in_a_session_of_its_own(self, begin: Begin, warm: WarmTrainer) -> None:
        trainer = begin(SLEEPS)
        pid = trainer.process.pid
        assert trainer.start == "warm"
        assert psutil.Process(pid).ppid() == os.getpid()
        assert (os.getpgid(pid), os.getsid(pid)) == (pid, pid)
        assert os.getsid(warm.pid or 0) != os.getsid(pid)

    def test_its_environment_is_its_own_inside_and_as_the_kernel_shows_it(self, begin: Begin) -> None:
        script = "import json, os; json.dump(dict(os.environ), open('environment', 'w'))\n" + SLEEPS
        trainer = begin(script, devices=("GPU-a", "GPU-b"))
        eventually(lambda: ready(trainer))
        expected = trainer_environment(os.environ, run_dir=trainer.run.root, cores=1, devices=("GPU-a", "GPU-b"))
        inside = json.loads((trainer.run.root / "environment").read_text())
        shown = psutil.Process(trainer.process.pid).environ()
        assert inside == shown
        assert expected.items() <= inside.items()
        assert all(name.isupper() and "ROOM" not in name for name in inside)

    def test_it_has_exactly_the_descriptors_that_it_was_given(self, begin: Begin, tmp_path: Path) -> None:
        slot = slots_in(tmp_path).acquire()
        assert slot is not None
        trainer = begin(
            "import json; from tunesmith.worker.train.warm import guard; print(json.dumps(guard.open_descriptors()))",
            slot=slot,
        )
        assert ended(trainer) == 0
        descriptors = json.loads(said(trainer))
        assert {"0", "1", "2"} < set(descriptors)
        assert [target for name, target in descriptors.items() if int(name) > 2] == [str(tmp_path / "slots/cpu-0.lock")]
        slot.release()

    def test_its_slot_is_taken_until_the_last_of_its_tree_is_dead(self, begin: Begin, tmp_path: Path) -> None:
        slots = slots_in(tmp_path)
        slot = slots.acquire()
        assert slot is not None
        grandchild = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\n"
        trainer = begin(grandchild, slot=slot)
        slot.release()
        eventually(lambda: trainer.exit_code is not None)
        assert slots.acquire() is None
        trainer.end()
        freed = slots.acquire(wait_seconds=10)
        assert freed is not None
        freed.release()

    def test_the_warm_process_holds_no_lock_of_a_slot(self, begin: Begin, warm: WarmTrainer, tmp_path: Path) -> None:
        slot = slots_in(tmp_path).acquire()
        assert slot is not None
        begin(SLEEPS, slot=slot)
        targets = {str(entry.readlink()) for entry in Path(f"/proc/{warm.pid}/fd").iterdir()}
        assert not any("lock" in target for target in targets)
        slot.release()

    @pytest.mark.parametrize(
        ("script", "code"),
        [
            ("raise SystemExit(75)", 75),
            ("raise SystemExit", 0),
            ("raise SystemExit('words')", 1),
            ("1 / 0", 1),
            ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
            ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
        ],
    )
    def test_its_exit_code_arrives_as_that_of_any_child(self, begin: Begin, script: str, code: int) -> None:
        assert ended(begin(script)) == code

    def test_its_last_words_and_its_writer_are_waited_for(self, begin: Begin) -> None:
        trainer = begin(
            "import threading, time\n"
            "def write():\n    time.sleep(0.3)\n    open('written', 'w').close()\n"
            "threading.Thread(target=write).start()\n"
            "print('no line end', end='')\n"
            "1 / 0"
        )
        assert ended(trainer) == 1
        assert (trainer.run.root / "written").exists()
        assert "no line end" in said(trainer)
        assert "ZeroDivisionError" in said(trainer)

    def test_one_that_ignores_everything_is_killed_with_its_whole_tree(self, begin: Begin) -> None:
        trainer = begin(
            "import os, signal, subprocess, sys, time\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "if os.fork() == 0:\n    os.setsid(); time.sleep(600)\n"
            "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
            "open('ready', 'w').close(); time.sleep(600)"
        )
        eventually(lambda: ready(trainer))
        eventually(lambda: len(tree(None, run_dir=trainer.run.root)) == 3)
        assert trainer.stop(grace_seconds=0.2, terminate_seconds=0.2, check=never) == -9
        assert tree(trainer.process.pid, run_dir=trainer.run.root) == []

    def test_the_stop_file_and_a_polite_signal_work(self, begin: Begin) -> None:
        listens = begin(
            "import pathlib, time\nwhile not pathlib.Path('stop').exists(): time.sleep(0.02)\nraise SystemExit(75)"
        )
        assert listens.stop(grace_seconds=20, terminate_seconds=5, check=never) == 75
        deaf = begin(SLEEPS)
        eventually(lambda: ready(deaf))
        assert deaf.stop(grace_seconds=0.1, terminate_seconds=10, check=never) == -signal.SIGTERM

    def test_a_later_start_of_the_worker_finds_it_by_its_mark(self, begin: Begin, tmp_path: Path) -> None:
        trainer = begin(SLEEPS)
        assert mark_of(trainer.process.pid) == str(trainer.run.root)
        trainer.record.unlink()
        assert end_leftovers(tmp_path / "trainers", runs=tmp_path / "runs") == [trainer.process.pid]

    def test_the_warm_process_is_no_leftover_of_a_run(self, warm: WarmTrainer) -> None:
        assert warm.pid is not None
        assert mark_of(warm.pid) is None


class TestNothingPassesFromOneJobToTheNext:
    SPOILS = (
        "import builtins, json, os, random, signal, sys\n"
        "os.environ['SPOILED'] = 'yes'\n"
        "os.putenv('SPOILED_TOO', 'yes')\n"
        "os.umask(0o077)\n"
        "os.chdir('/')\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "signal.signal(signal.SIGUSR1, lambda *_: None)\n"
        "sys.path.insert(0, '/spoiled')\n"
        "sys.modules['json'] = None\n"
        "builtins.spoiled = True\n"
        "random.seed(1)\n"
    )
    TELLS = (
        "import builtins, json, os, random, signal, sys\n"
        "umask = os.umask(0); os.umask(umask)\n"
        "json.dump({'variables': sorted(os.environ), 'umask': umask, 'cwd': os.getcwd(), 'path': sys.path,\n"
        "  'handlers': [str(signal.getsignal(n)) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)],\n"
        "  'spoiled': hasattr(builtins, 'spoiled'), 'arguments': sys.argv}, open('state', 'w'))\n"
    )

    def test_what_one_did_to_its_process_the_next_does_not_see(self, begin: Begin) -> None:
        first = begin(self.TELLS)
        assert (ended(first), ended(begin(self.SPOILS))) == (0, 0)
        after = begin(self.TELLS)
        assert ended(after) == 0
        state, clean = (json.loads((trainer.run.root / "state").read_text()) for trainer in (after, first))
        assert state.pop("cwd") == str(after.run.root)
        assert clean.pop("cwd") == str(first.run.root)
        assert (state.pop("arguments")[1], clean.pop("arguments")[1]) == (str(after.run.root), str(first.run.root))
        assert state == clean

    def test_a_fork_that_writes_to_all_memory_it_may_write_to_changes_nothing(self, begin: Begin) -> None:
        """It overwrites an object of the warm process where it lies, as a fault in a kernel could."""
        module = "tunesmith.worker.fork_protocol"
        address = f"import ctypes, {module} as shared\ntext = shared.ROOM\nplace = id(text) + 48\n"
        trainer = begin(address + "ctypes.memset(place, 88, len(text)); print(text)")
        assert (ended(trainer), said(trainer).strip("X\n")) == (0, "")
        after = begin(address + "print(text)")
        assert (ended(after), said(after)) == (0, "TUNESMITH_ROOM\n")

    def test_random_numbers_are_not_the_same_in_every_job(self, begin: Begin) -> None:
        draws = "import random, numpy; print(random.random(), numpy.random.random())"
        one, other = begin(draws), begin(draws)
        assert (ended(one), ended(other)) == (0, 0)
        assert not set(said(one).split()) & set(said(other).split())

    def test_two_at_once_do_not_meet(self, begin: Begin) -> None:
        one, other = begin(SLEEPS), begin(SLEEPS)
        assert one.start == other.start == "warm"
        eventually(lambda: ready(one) and ready(other))
        assert one.end() == -9
        assert other.exit_code is None
        assert [process.pid for process in tree(None, run_dir=other.run.root)] == [other.process.pid]


class TestWhateverHappensToTheWarmProcess:
    def test_a_dead_one_costs_a_plain_start_and_is_replaced(self, begin: Begin, warm: WarmTrainer) -> None:
        first = warm.pid
        os.kill(first or 0, signal.SIGKILL)
        eventually(lambda: psutil.Process(first).status() == psutil.STATUS_ZOMBIE)
        assert begin(SLEEPS).start == "plain"
        warm.keep()
        assert warm.pid not in (None, first)
        assert begin(SLEEPS).start == "warm"

    def test_a_trainer_outlives_it_and_its_exit_code_is_known(self, begin: Begin, warm: WarmTrainer) -> None:
        trainer = begin(
            "import pathlib, time\nopen('ready', 'w').close()\n"
            "while not pathlib.Path('stop').exists(): time.sleep(0.02)\nraise SystemExit(75)"
        )
        eventually(lambda: ready(trainer))
        os.kill(warm.pid or 0, signal.SIGKILL)
        assert trainer.stop(grace_seconds=20, terminate_seconds=5, check=never) == 75

    def test_one_that_is_killed_in_the_middle_of_a_fork_leaves_nothing(
        self, begin: Begin, warm: WarmTrainer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The worker has been told of the fork, and dies or loses heart before it lets it through."""
        waiting: list[int] = []

        def kill_the_warm_one(_trainer: AdoptedProcess) -> bool:
            waiting.append(_trainer.pid)
            os.kill(warm.pid or 0, signal.SIGKILL)
            return False

        monkeypatch.setattr(AdoptedProcess, "is_ours", kill_the_warm_one)
        trainer = begin(SLEEPS)
        assert trainer.start == "plain"
        eventually(lambda: psutil.Process(waiting[0]).status() == psutil.STATUS_ZOMBIE)

    def test_a_fork_whose_worker_is_gone_ends_before_it_begins(self, tmp_path: Path) -> None:
        slots = tmp_path / "slots"
        slots.mkdir()
        script = (
            "import os, sys, time; from pathlib import Path; from tunesmith.worker.machine.slots import Slots\n"
            "from tunesmith.worker.trainer_process import warm as module\n"
            "from tunesmith.worker.trainer_process.launcher import trainer_environment\n"
            f"slot = Slots(Path({str(slots)!r}), (('cpu-0',),)).acquire()\n"
            "environment = trainer_environment(os.environ, run_dir=Path('/nowhere'), cores=1, devices=())\n"
            f"warm = module.WarmTrainer(environment=environment, command={LIGHT!r}); warm.keep()\n"
            "def die(pid):\n    print(pid, warm.pid, flush=True); os.kill(os.getpid(), 9)\n"
            "module.mark_of = die\n"
            f"environment['TUNESMITH_RUN_DIR'] = {str(tmp_path)!r}\n"
            "ends = module.Ends(os.pipe()[0], os.pipe()[1], slot.descriptors)\n"
            f"warm.fork({str(tmp_path)!r}, environment, ends, hurry=lambda: False)\n"
        )
        (tmp_path / "job.py").write_text("open('ran', 'w').close()")
        worker = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert worker.returncode == -9, worker.stderr
        for pid in map(int, worker.stdout.split()):
            eventually(lambda pid=pid: not psutil.pid_exists(pid) or is_zombie(pid))
        assert not (tmp_path / "ran").exists()
        freed = slots_in(tmp_path).acquire(wait_seconds=10)
        assert freed is not None
        freed.release()

    def test_a_killed_worker_takes_warm_process_and_trainer_along(self, tmp_path: Path) -> None:
        (tmp_path / "job.py").write_text("from tunesmith.worker.train.lifeline import watch; watch(0)\n" + SLEEPS)
        script = (
            "import os, time; from pathlib import Path; from tunesmith.worker.trainer_process.warm import *\n"
            "from tunesmith.worker.trainer_process.launcher import trainer_environment\n"
            f"environment = trainer_environment(os.environ, run_dir=Path({str(tmp_path)!r}), cores=1, devices=())\n"
            f"warm = WarmTrainer(environment=environment, command={LIGHT!r}); warm.keep()\n"
            "lifeline, output = os.pipe(), os.pipe()\n"
            "ends = Ends(lifeline[0], output[1], ())\n"
            f"trainer = warm.fork({str(tmp_path)!r}, environment, ends, hurry=lambda: False)\n"
            "print(trainer.pid, warm.pid, flush=True); time.sleep(600)"
        )
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as worker:
            try:
                assert worker.stdout is not None
                trainer, warm = map(int, worker.stdout.readline().split())
                eventually((tmp_path / "ready").exists)
                os.kill(warm, signal.SIGSTOP)  # one that reads nothing any more must go too
            finally:
                worker.kill()
        for pid in (trainer, warm):
            eventually(lambda pid=pid: not psutil.pid_exists(pid) or is_zombie(pid))

    @pytest.mark.parametrize("mood", ["hang", "deaf"])
    def test_one_that_hangs_is_killed_and_done_without(
        self, begin: Begin, mood: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(warm_module, "FORK_SECONDS", 0.5)
        monkeypatch.setattr(warm_module, "START_SECONDS", 20.0 if mood == "hang" else 0.5)
        for hung in kept(*LIGHT, mood):
            pid = hung.pid
            assert begin("print('done')", trainer=hung).start == "plain"
            assert not psutil.pid_exists(pid)

    def test_a_job_that_is_cancelled_meanwhile_does_not_wait_for_the_imports(self, begin: Begin) -> None:
        for warming in kept(*LIGHT, "deaf"):
            began = time.monotonic()
            trainer = begin("print('done')", trainer=warming, hurry=lambda: True)
            assert trainer.start == "plain"
            assert time.monotonic() - began < 10

    def test_one_whose_imports_fail_says_why_and_is_given_up_after_a_few(self, begin: Begin) -> None:
        refusal = "say(socket.socket(fileno=0), Word(refused='no torch'))"
        broken = f"import socket; from tunesmith.worker.fork_protocol import *; {refusal}"
        for failing in kept(sys.executable, "-c", broken):
            for _ in range(MOST_FAILURES):
                assert begin("print('done')", trainer=failing).start == "plain"
                failing.keep()
            assert failing.pid is None

    def test_a_program_that_cannot_be_started_is_no_reason_to_fail(self, begin: Begin) -> None:
        for absent in kept("/does/not/exist"):
            assert begin("print('done')", trainer=absent).start == "plain"

    def test_a_job_with_another_environment_is_started_plainly(self, begin: Begin, warm: WarmTrainer) -> None:
        pid = warm.pid
        assert begin("print('done')", cores=2).start == "plain"
        assert begin("print('done')").start == "warm"
        assert warm.pid == pid

    def test_several_processes_are_started_plainly(self, begin: Begin) -> None:
        assert begin("print('done')", plan=Plan.model_construct(world_size=2), cores=2).start == "plain"

    def test_an_exit_status_that_somebody_else_took_is_known_to_be_lost(self) -> None:
        child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
        adopted = AdoptedProcess(child.pid)
        assert adopted.is_ours()
        assert child.wait() == 3
        assert adopted.poll() == adopted.wait(timeout=1) == STATUS_LOST


def is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
