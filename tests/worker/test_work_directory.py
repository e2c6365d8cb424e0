"""The worker's folder has one owner, lasting names, and no path that a user chose."""

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tunesmith.tuning.values.redact import scrub
from tunesmith.worker.work_directory import WorkDirectory, WorkDirectoryInUse, WorkerSession, identifier, inside

SESSION = WorkerSession(worker_id="w", incarnation="i", worker_class="cpu", name="n")


@pytest.fixture
def work(tmp_path: Path) -> WorkDirectory:
    directory = WorkDirectory(tmp_path / "work")
    directory.create()
    return directory


def test_a_second_worker_on_the_same_folder_is_told_who_has_it(work: WorkDirectory) -> None:
    with work.lock(), pytest.raises(WorkDirectoryInUse, match=f"process {os.getpid()}") as refusal:
        WorkDirectory(work.root).lock()
    assert refusal.value.param == "TUNESMITH_WORK_DIR"
    work.lock().close()


def test_the_command_refuses_a_folder_in_use_in_one_line(work: WorkDirectory) -> None:
    settings = {
        "TUNESMITH_URL": "http://127.0.0.1:9",
        "TUNESMITH_WORKER_KEY": "ts-x",
        "REDIS_URL": "redis://127.0.0.1:9",
        "TUNESMITH_WORK_DIR": str(work.root),
    }
    with work.lock():
        command = [sys.executable, "-m", "tunesmith.worker.cli", "run"]
        ended = subprocess.run(
            command, check=False, env={**os.environ, **settings}, capture_output=True, text=True, timeout=60
        )
    assert ended.returncode == 1
    assert "in use by another worker" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_settings_that_are_missing_are_named_without_values(tmp_path: Path) -> None:
    environment = {**os.environ, "TUNESMITH_SLOTS": "ts-secret-in-the-wrong-place"}
    command = [sys.executable, "-m", "tunesmith.worker.cli", "run"]
    ended = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "TUNESMITH_URL: Field required" in ended.stderr
    assert "TUNESMITH_SLOTS" in ended.stderr
    assert "ts-secret" not in ended.stderr


def test_the_worker_keeps_its_name_over_restarts(work: WorkDirectory) -> None:
    assert work.worker_id() == WorkDirectory(work.root).worker_id()


def test_processes_that_start_at_once_on_a_new_folder_are_one_worker(work: WorkDirectory) -> None:
    script = (
        "import sys; from pathlib import Path; from tunesmith.worker.work_directory import WorkDirectory\n"
        "work = WorkDirectory(Path(sys.argv[1])); print('here', flush=True)\n"
        "for _ in sys.stdin: print(work.worker_id(), flush=True)"
    )
    command = [sys.executable, "-c", script, str(work.root)]
    piped = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with ExitStack() as ending:
        starts = [ending.enter_context(subprocess.Popen(command, **piped)) for _ in range(3)]
        for start in starts:
            ending.callback(start.kill)
            assert start.stdout.readline() == "here\n"
        for _ in range(20):
            for start in starts:
                start.stdin.write("\n")
            assert {start.stdout.readline().strip() for start in starts} == {work.worker_id()}
            work.forget_worker_id()


def test_a_drain_has_one_deadline_and_ends_with_the_next_start(work: WorkDirectory) -> None:
    work.start_session(SESSION)
    assert work.drain_deadline() is None
    work.start_draining(100)
    first = work.drain_deadline()
    assert first is not None
    assert first > time.time() + 50
    work.start_draining(1)
    assert work.drain_deadline() == first
    work.start_session(SESSION)
    assert work.drain_deadline() is None
    assert work.session() == SESSION


def test_old_runs_go_except_the_newest_few_and_those_that_run(work: WorkDirectory) -> None:
    for number in range(5):
        root = work.run_root(job_id=f"job-{number}", attempt_id=f"attempt-{number}")
        root.mkdir(parents=True)
        os.utime(root, (1000 + number, 1000 + number))
    (work.trainers / "attempt-0.json").touch()
    work.remove_old_runs(keep=2)
    assert {root.name for root in work.runs.glob("*/*")} == {"attempt-0", "attempt-3", "attempt-4"}
    assert {job.name for job in work.runs.iterdir()} == {"job-0", "job-3", "job-4"}


def test_runs_of_a_job_that_another_slot_is_at_work_on_stay_however_old_they_are(work: WorkDirectory) -> None:
    ids = {"job_id": "job", "attempt_id": "second"}
    (work.runs / "job" / "first").mkdir(parents=True)  # whose checkpoint the second may go on from
    with work.at_work(**ids):
        WorkDirectory(work.root).remove_old_runs(keep=0)
        assert {root.name for root in work.runs.glob("*/*")} == {"first", "second"}
    WorkDirectory(work.root).remove_old_runs(keep=0)
    assert list(work.runs.iterdir()) == []


def test_a_run_begins_whatever_other_slots_remove_meanwhile(work: WorkDirectory) -> None:
    script = (
        "import os, sys; from pathlib import Path; from tunesmith.worker.work_directory import WorkDirectory\n"
        "work = WorkDirectory(Path(sys.argv[1])); print(flush=True)\n"
        "while os.getppid() == int(sys.argv[2]): work.remove_old_runs(keep=0)"
    )
    command = [sys.executable, "-c", script, str(work.root), str(os.getpid())]
    with ExitStack() as others:
        for _ in range(2):
            other = others.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            others.callback(other.kill)
            assert other.stdout is not None
            assert other.stdout.readline() == "\n"
        for number in range(1000):
            ids = {"job_id": "job", "attempt_id": f"attempt-{number}"}
            with work.at_work(**ids):
                assert work.run_root(**ids).is_dir()
            assert other.poll() is None


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a\\b", "a\0b", "a/."])
def test_names_that_leave_their_folder_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="relative"):
        inside(Path("/root"), name)


@pytest.mark.parametrize("text", ["", "..", "a/b", ".hidden", "a b", "x" * 200])
def test_identifiers_that_could_be_paths_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="identifier"):
        identifier(text)


@pytest.mark.parametrize(
    "secret",
    [
        "hf_abcdefghijklmnopqrstuvwxyz",
        "Authorization: Bearer abc.def-123456789",
        "redis://user:hunter22@host/0",
        "lease-0123456789abcdefABCDEF_-xyz",
        "AKIAABCDEFGHIJKLMNOP",
        '{"api_key": "0123456789"}',
    ],
)
def test_what_looks_like_a_secret_is_hidden(secret: str) -> None:
    text = scrub(f"before {secret} after")
    assert "[hidden]" in text
    assert text.startswith("before ")
    assert text.endswith(" after")
    assert not any(part in text for part in ("abcdefghij", "123456789", "hunter22", "ABCDEFGHIJ"))


def test_ordinary_log_lines_stay_as_they_are() -> None:
    line = "step 12/300 loss 1.25, 1142 tokens, tokenizer: BPE, /models/llama-3.1-8b/model-00001-of-00002.safetensors"
    assert scrub(line) == line
    assert scrub("key is sesame", ("sesame",)) == "key is [hidden]"
