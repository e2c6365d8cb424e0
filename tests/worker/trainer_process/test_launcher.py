"""A trainer runs alone in its session, sees no secret, stops by a ladder and never outlives its worker."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.waiting import eventually
from tunesmith.worker.machine.slots import Slot, Slots
from tunesmith.worker.run_directory import RunDirectory
from tunesmith.worker.trainer_process.launcher import Trainer, start, trainer_command, trainer_environment
from tunesmith.worker.trainer_process.log_file import log_tail
from tunesmith.worker.trainer_process.processes import end_leftovers, record_trainer, tree

Start = Callable[[str], Trainer]


def never() -> bool:
    return False


def test_the_stop_file_is_enough_for_a_trainer_that_listens(begin: Start) -> None:
    trainer = begin(
        "import pathlib, sys, time\nwhile not pathlib.Path('stop').exists(): time.sleep(0.02)\nsys.exit(75)"
    )
    assert trainer.stop(grace_seconds=20, terminate_seconds=5, check=never) == 75


def test_a_trainer_that_ignores_everything_is_killed_with_its_whole_tree(begin: Start, run: RunDirectory) -> None:
    trainer = begin(
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "sleeper = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "subprocess.Popen(sleeper)\n"
        "subprocess.Popen(sleeper, start_new_session=True)\n"
        "open('ready', 'w').close()\n"
        "time.sleep(600)"
    )
    eventually((run.root / "ready").exists)
    eventually(lambda: len(tree(trainer.process.pid, run_dir=run.root)) == 3)
    assert trainer.stop(grace_seconds=0.2, terminate_seconds=0.2, check=never) == -9
    assert tree(trainer.process.pid, run_dir=run.root) == []
    assert not trainer.record.exists()


def test_a_trainer_is_the_first_that_the_kernel_ends_when_memory_runs_out(begin: Start) -> None:
    trainer = begin("import time; time.sleep(600)")
    assert Path(f"/proc/{trainer.process.pid}/oom_score_adj").read_text() == "1000\n"


def test_a_slot_stays_taken_until_its_trainer_is_dead(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "trainers").mkdir()
    slots = Slots(tmp_path, (("cpu-0",),))
    slot = slots.acquire()
    assert slot is not None
    trainer = start(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        run,
        environment=trainer_environment(os.environ, run_dir=run.root, cores=1, devices=()),
        slot=slot,
        records=tmp_path / "trainers",
        log_cap_bytes=64 * 1024,
    )
    slot.release()
    taken = slots.acquire() is None
    trainer.end()
    assert taken
    assert slots.acquire() is not None


def test_a_trainer_dies_when_its_worker_is_killed(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "trainers").mkdir()
    watched = "import os; from tunesmith.worker.train.lifeline import watch; watch(0); import time; time.sleep(600)"
    worker = (
        "import os, sys, time; from pathlib import Path\n"
        "from tunesmith.worker.trainer_process.launcher import start, trainer_environment\n"
        "from tunesmith.worker.run_directory import RunDirectory; from tunesmith.worker.machine.slots import Slot\n"
        f"run = RunDirectory(Path({str(run.root)!r}))\n"
        "environment = trainer_environment(os.environ, run_dir=run.root, cores=1, devices=())\n"
        f"trainer = start([sys.executable, '-c', {watched!r}], run, environment=environment, slot=Slot(0),\n"
        f"    records=Path({str(tmp_path / 'trainers')!r}), log_cap_bytes=65536)\n"
        "time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", worker])
    try:
        (trainer,) = eventually(lambda: tree(None, run_dir=run.root))
    finally:
        process.kill()
        process.wait()
    eventually(lambda: not psutil.pid_exists(trainer.pid) or trainer.status() == psutil.STATUS_ZOMBIE)


def test_leftovers_of_an_earlier_start_are_ended(run: RunDirectory, tmp_path: Path) -> None:
    records = tmp_path / "records"
    records.mkdir()
    environment = trainer_environment(os.environ, run_dir=run.root, cores=1, devices=())
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    recorded = subprocess.Popen(command, env=environment, start_new_session=True)
    record_trainer(records, name="attempt", pid=recorded.pid, run_dir=run.root)
    stray = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        assert set(end_leftovers(records, runs=run.root.parent)) == {recorded.pid, stray.pid}
        assert (recorded.wait(timeout=60), stray.wait(timeout=60)) == (-9, -9)
    finally:
        for process in (recorded, stray):
            process.kill()
            process.wait()
    assert list(records.iterdir()) == []


def test_a_pid_that_was_given_to_another_process_is_left_alone(run: RunDirectory, tmp_path: Path) -> None:
    records = tmp_path / "records"
    records.mkdir()
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        path = record_trainer(records, name="attempt", pid=stranger.pid, run_dir=run.root)
        path.write_text(path.read_text().replace('"started_at":', '"started_at":1'))
        assert end_leftovers(records, runs=run.root.parent) == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_the_trainer_sees_no_secret_of_the_worker() -> None:
    inherited = {
        "PATH": "/bin",
        "TUNESMITH_WORKER_KEY": "ts-secret",
        "REDIS_URL": "redis://:pw@host",
        "AWS_SECRET_ACCESS_KEY": "x",
        "HF_TOKEN": "hf_x",
        "DATABASE_URL": "postgresql://",
        "NCCL_DEBUG": "WARN",
    }
    environment = trainer_environment(inherited, run_dir=Path("/run"), cores=3, devices=("GPU-a", "GPU-b"))
    assert environment["PATH"] == "/bin"
    assert environment["NCCL_DEBUG"] == "WARN"
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert not {"TUNESMITH_WORKER_KEY", "REDIS_URL", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "DATABASE_URL"} & set(
        environment
    )


@pytest.mark.parametrize(("limit", "threads"), [("2", "2"), ("64", "3"), ("0", "3"), ("many", "3")])
def test_the_trainer_asks_for_no_more_threads_than_may_start(limit: str, threads: str) -> None:
    environment = trainer_environment({"OMP_THREAD_LIMIT": limit}, run_dir=Path("/run"), cores=3, devices=())
    assert environment["OMP_NUM_THREADS"] == threads


def test_what_the_gpu_image_sets_for_the_trainer_arrives_there(run: RunDirectory, tmp_path: Path) -> None:
    dockerfile = (Path(__file__).parents[3] / "Dockerfile.gpu").read_text()
    wanted = dict(re.findall(r"\b((?:CC|PYTORCH_\w+|TRITON_\w+|TORCHINDUCTOR_\w+))=(\S+)", dockerfile))
    assert {"CC", "PYTORCH_ALLOC_CONF"} <= set(wanted)
    environment = trainer_environment(os.environ | wanted, run_dir=run.root, cores=1, devices=())
    said = tmp_path / "said.json"
    script = (
        f"import json, os, tunesmith.worker.train.environment; json.dump(dict(os.environ), open({str(said)!r}, 'w'))"
    )
    (tmp_path / "trainers").mkdir()
    trainer = start(
        [sys.executable, "-c", script],
        run,
        environment=environment,
        slot=Slot(0),
        records=tmp_path / "trainers",
        log_cap_bytes=1024,
    )
    assert trainer.process.wait(timeout=60) == 0
    trainer.end()
    seen = json.loads(said.read_text())
    assert {name: seen[name] for name in wanted} == wanted


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_an_operators_allocator_setting_beats_the_trainers(name: str) -> None:
    told = f"os.environ.get({name!r}) or os.environ['PYTORCH_ALLOC_CONF']"
    count = "len([name for name in os.environ if 'ALLOC_CONF' in name])"
    script = f"import os, tunesmith.worker.train.environment; print({told}, {count})"
    clean = {key: value for key, value in os.environ.items() if "ALLOC_CONF" not in key}
    for mine, expected in (({}, "expandable_segments:True 1"), ({name: "backend:native"}, "backend:native 1")):
        environment = trainer_environment(clean | mine, run_dir=Path("/run"), cores=1, devices=())
        command = [sys.executable, "-c", script]
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()
        assert said == expected


def test_several_processes_start_through_torchrun() -> None:
    command = trainer_command(Path("/run"), world_size=4)
    assert command[2:] == ["-m", "tunesmith.worker.train.ranks", "/run", "--processes", "4"]
    assert trainer_command(Path("/run"), world_size=1)[2:] == ["-m", "tunesmith.worker.train", "/run"]


def test_a_flood_of_output_keeps_its_end_within_the_cap(begin: Start, run: RunDirectory) -> None:
    trainer = begin("for number in range(50_000): print('line', number)")
    eventually(lambda: trainer.exit_code is not None)
    assert trainer.end() == 0
    assert run.log.stat().st_size <= 2 * 64 * 1024
    assert "earlier output dropped" in run.log.read_text()
    assert log_tail(run.log).endswith("line 49999")


def test_a_trainer_whose_log_cannot_be_written_does_not_block_on_its_output(begin: Start, run: RunDirectory) -> None:
    (run.log / "made-by-an-earlier-trainer").mkdir(parents=True)
    trainer = begin("for number in range(50_000): print('line', number)")
    eventually(lambda: trainer.exit_code is not None)
    assert trainer.end() == 0


def test_a_trainer_whose_lifeline_cannot_be_read_ends_at_once_and_says_why() -> None:
    script = (
        "import os, time\n"
        "from tunesmith.worker.train import lifeline\n"
        "lifeline.watch(os.open('/', os.O_PATH))\n"  # as when other code has closed it, or put its own there
        "time.sleep(60)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=30)
    assert ended.returncode == -9
    assert "lifeline to the worker cannot be read" in ended.stderr
