"""The command and the examples against the real service: what they print, write, and exit with."""

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import TUNESMITH, write_rows
from tests.command import Run
from tests.stack.installation import FINAL, MODEL
from tests.waiting import eventually
from tunesmith.cli.connection import Connection
from tunesmith.local.up import strays

pytestmark = pytest.mark.timeout(240)

ROOT = Path(__file__).parents[2]
Rows = Callable[..., Path]


class OnlySlot:
    """That of the installation's worker. One long job takes it for all tests that want one, whatever their order."""

    def __init__(self, run: Run, rows: Path) -> None:
        self._run = run
        self._rows = rows
        self._long_job: str | None = None

    def taken(self) -> str:
        """By a job that would run for hours, which waits for it or has it; returns its id."""
        if self._long_job is None or status_of(self._run, self._long_job) in FINAL:
            words = ("submit", self._rows, "--model", MODEL, "--epochs", "50", "--batch-size", "1", "-o", "id")
            submitted = self._run(*words)
            assert submitted.returncode == 0, submitted.stderr
            self._long_job = submitted.stdout.strip()
        return self._long_job

    def freed(self) -> None:
        """For a job that a test waits for."""
        if self._long_job is not None:
            self._run("cancel", self._long_job)
            self._long_job = None


@pytest.fixture(scope="module")
def only_slot(service: Connection, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnlySlot]:
    slot = OnlySlot(run, write_rows(tmp_path_factory.mktemp("long") / "rows.jsonl", 256))
    yield slot
    slot.freed()


@pytest.fixture
def long_job(only_slot: OnlySlot) -> str:
    """A job that would run for hours, from whichever test."""
    return only_slot.taken()


@pytest.fixture
def free_slot(only_slot: OnlySlot) -> None:
    """Nothing keeps the worker from the jobs of this test."""
    only_slot.freed()


@pytest.fixture(scope="module")
def finished_job(only_slot: OnlySlot, run: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A job that was submitted, followed and succeeded."""
    only_slot.freed()
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    row = {"messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello."}]}
    path.write_text("".join(json.dumps(row) + "\n" for _ in range(16)))
    words = ("submit", path, "--validation", path, "--model", MODEL, "--epochs", "1", "--batch-size", "4")
    ended = run(*words, "--seed", "1", "--suffix", "greeting", "--metadata", "team=search", "--follow")
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_a_followed_job_prints_its_id_as_data_and_its_story_as_progress(run: Run, finished_job: str) -> None:
    assert finished_job.startswith("ftjob-")
    again = run("watch", finished_job)
    assert again.returncode == 0
    assert again.stdout == ""
    assert "succeeded" in again.stderr
    assert "valid" in again.stderr
    assert f"tunesmith artifacts pull {finished_job}" in again.stderr


def test_get_shows_the_plan_with_its_reasons(run: Run, finished_job: str) -> None:
    shown = run("get", finished_job).stdout
    assert "because" in shown
    assert "not full" in shown
    assert "MFU" in shown
    assert "checkpoints: held training up for" in shown
    job = json.loads(run("get", finished_job, "-o", "json").stdout)
    assert (job["seed"], job["metadata"]) == (1, {"team": "search"})
    assert ":greeting:" in job["fine_tuned_model"]


@pytest.mark.slow
@pytest.mark.usefixtures("free_slot")
def test_a_repeated_job_is_identical_to_the_last_bit(run: Run, finished_job: str) -> None:
    repeated = run("reproduce", finished_job, "-o", "json")
    assert repeated.returncode == 0, repeated.stdout + repeated.stderr
    found = json.loads(repeated.stdout)
    assert (found["verdict"], found["reproduces"], found["differences"]) == ("identical", finished_job, [])
    assert [file["name"] for file in found["weights"]] == ["adapter_model.safetensors"]
    assert found["steps_compared"] == 5
    second = json.loads(run("get", found["job_id"], "-o", "json").stdout)
    first = json.loads(run("get", finished_job, "-o", "json").stdout)
    assert second["tunesmith"]["plan"] == first["tunesmith"]["plan"]
    assert second["metadata"] == {"reproduces": finished_job}
    assert second["fine_tuned_model"] != first["fine_tuned_model"]


@pytest.mark.usefixtures("free_slot")
def test_a_tuned_model_is_compared_with_its_base_by_the_installation_itself(
    run: Run, finished_job: str, rows: Rows, tmp_path: Path
) -> None:
    model = json.loads(run("get", finished_job, "-o", "json").stdout)["fine_tuned_model"]
    page = tmp_path / "report.html"
    words = ("eval", model, "--data", rows(24), "--against", "base", "--score", "exact", "--max-answer-tokens", "8")
    ended = run(*words, "--rows", "20", "--report", page)
    assert ended.returncode == 0, ended.stderr
    assert f"model       {model}" in ended.stdout
    assert "rows        20 of file-" in ended.stdout
    assert "verdict" in ended.stdout
    assert "expected  It is" in ended.stdout
    assert "Evaluation of ft:" in page.read_text()
    assert "eval-" not in run("ls").stdout, "an evaluation is no fine-tuning job"


def test_ls_shows_jobs_by_state(run: Run, finished_job: str) -> None:
    assert finished_job in run("ls", "--state", "succeeded").stdout
    assert finished_job not in run("ls", "--state", "paused").stdout
    assert run("ls", "--state", "happy").returncode == 2
    assert finished_job in [job["id"] for job in json.loads(run("ls", "-o", "json").stdout)]


def test_logs_and_events_tell_the_history_from_the_beginning(run: Run, finished_job: str) -> None:
    lines = run("logs", finished_job).stdout.splitlines()
    assert "Created fine-tuning job" in lines[0]
    assert "successfully completed" in lines[-1]
    events = json.loads(run("events", finished_job, "-o", "json").stdout)
    assert len(events) == len(lines)
    assert run("logs", "-f", finished_job).returncode == 0


def test_samples_show_how_the_answers_to_a_prompt_change(run: Run, finished_job: str) -> None:
    found = json.loads(run("samples", finished_job, "-o", "json").stdout)
    assert len(found) == 3
    for sample in found:
        assert sample["reference"] == "Hello."
        steps = [answer["step"] for answer in sample["answers"]]
        assert (steps[0], steps[-1]) == (0, 4)  # between the ends they may take a share of the time, and no more
        assert steps == sorted(set(steps))
    shown = run("samples", finished_job).stdout
    assert "of the validation file" in shown
    assert "step 4" in shown


def test_pulled_files_are_the_promised_ones(run: Run, finished_job: str, tmp_path: Path) -> None:
    artifacts = json.loads(run("artifacts", "ls", finished_job, "-o", "json").stdout)
    pulled = run("artifacts", "pull", finished_job, "--to", tmp_path / "out", "--kind", "adapter")
    assert pulled.returncode == 0, pulled.stderr
    promised = {
        str(tmp_path / "out" / "adapter" / file["name"]): file["sha256"]
        for artifact in artifacts
        if artifact["kind"] == "adapter"
        for file in artifact["files"]
    }
    assert {name: sha256(Path(name)) for name in pulled.stdout.splitlines()} == promised
    assert list((tmp_path / "out").rglob(".*")) == []  # nothing is left aside


def test_a_damaged_file_is_pulled_again(run: Run, finished_job: str, tmp_path: Path) -> None:
    run("artifacts", "pull", finished_job, "--to", tmp_path)
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    whole = sha256(weights)
    weights.write_bytes(b"x" * weights.stat().st_size)
    assert run("artifacts", "pull", finished_job, "--to", tmp_path).returncode == 0
    assert sha256(weights) == whole


PLAIN = """
import sys
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, is_adapter = sys.argv[1], sys.argv[2] == "adapter"
model = (AutoPeftModelForCausalLM if is_adapter else AutoModelForCausalLM).from_pretrained(folder)
tokens = AutoTokenizer.from_pretrained(folder)("What is this?", return_tensors="pt")
logits = model(**tokens).logits[0, -1].log_softmax(-1)
print([round(value, 4) for value in logits[:40].tolist()])
try:
    import tunesmith.tuning
except ModuleNotFoundError:
    sys.exit()
sys.exit("this project is on the path")
"""


def environment_without_us(folder: Path) -> Path:
    """The Python of a fresh environment that has the same libraries on its path, and not this project."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    found = importlib.util.find_spec("torch")
    (site / "libraries.pth").write_text(f"{Path(str(found.origin)).parents[1]}\n")  # whose own .pth files do not count
    return folder / "bin" / "python"


@pytest.mark.slow
def test_a_pulled_adapter_opens_in_plain_peft_without_a_hub_and_says_what_the_merged_model_says(
    run: Run, finished_job: str, tmp_path: Path
) -> None:
    alone = run("artifacts", "pull", finished_job, "--to", tmp_path / "alone", "--kind", "adapter")
    assert "--with-base" in alone.stderr
    named = json.loads((tmp_path / "alone" / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == f"/path/to/{MODEL}"  # nothing that a hub could be asked for

    pulled = run("artifacts", "pull", finished_job, "--to", tmp_path / "both", "--with-base")
    assert (pulled.returncode, "--with-base" in pulled.stderr) == (0, False), pulled.stderr
    merged = run("artifacts", "pull", finished_job, "--to", tmp_path / "merged", "--merged")
    assert merged.returncode == 0, merged.stderr
    card = (tmp_path / "both" / "adapter" / "README.md").read_text()
    assert f'from_pretrained("{tmp_path / "both" / "base"}")' in card
    plain = environment_without_us(tmp_path / "plain")
    said = [
        subprocess.run(
            [plain, "-I", "-c", PLAIN, folder, folder.name],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for folder in (tmp_path / "both" / "adapter", tmp_path / "merged" / "model")
    ]
    assert said[0] == said[1]


@pytest.mark.slow
def test_a_model_is_exported_for_engines_and_compared(run: Run, finished_job: str, tmp_path: Path) -> None:
    gguf = run("export", finished_job, "--for", "gguf", "--type", "f32", "--to", tmp_path / "gguf")
    assert gguf.returncode == 0, gguf.stderr
    assert (tmp_path / "gguf" / "model-f32.gguf").read_bytes()[:4] == b"GGUF"
    vllm = run("export", finished_job, "--for", "vllm", "--to", tmp_path / "vllm")
    assert vllm.returncode == 0, vllm.stderr
    config = json.loads((tmp_path / "vllm" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str((tmp_path / "vllm" / "base").resolve())
    for said in (gguf.stdout, vllm.stdout):
        assert "compared over" in said
    again = run("export", finished_job, "--for", "gguf", "--type", "f32", "--to", tmp_path / "gguf")
    assert "is there already" in again.stderr


def test_options_of_pull_that_contradict_each_other_are_refused(run: Run, finished_job: str, tmp_path: Path) -> None:
    for options in (("--merged", "--with-base"), ("--merged", "--kind", "adapter"), ("--base", tmp_path)):
        assert run("artifacts", "pull", finished_job, "--to", tmp_path / "out", *options).returncode == 2, options
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_there_is_not_sent_again(run: Run, service: Connection, tiny_model: Path) -> None:
    again = run("models", "add", MODEL, "--path", tiny_model)
    assert (again.returncode, again.stdout.strip()) == (0, MODEL)
    assert "send" not in again.stderr
    models = {
        model["id"]: model["tunesmith"]["status"] for model in json.loads(run("models", "ls", "-o", "json").stdout)
    }
    assert models[MODEL] == "ready"


def test_a_model_can_be_added_and_removed(run: Run, service: Connection, tiny_model: Path) -> None:
    assert run("models", "add", "other", "--path", tiny_model).returncode == 0
    assert run("models", "rm", "other").returncode == 0
    assert "other" not in run("models", "ls").stdout.split()


def test_the_same_key_finds_the_same_job_and_sends_the_file_once(run: Run, service: Connection, rows: Rows) -> None:
    path = rows(12)
    words = (
        "submit",
        path,
        "--model",
        MODEL,
        "--epochs",
        "1",
        "--seed",
        "3",
        "--idempotency-key",
        "nightly-1",
        "-o",
        "id",
    )
    first, second = run(*words), run(*words)
    assert (first.returncode, second.returncode) == (0, 0), second.stderr
    assert first.stdout == second.stdout
    assert "upload" in first.stderr
    assert "upload" not in second.stderr
    run("cancel", first.stdout.strip())


def test_a_finished_job_cannot_be_cancelled(run: Run, finished_job: str) -> None:
    refused = run("cancel", finished_job)
    assert refused.returncode == 7
    assert "succeeded" in refused.stderr


def test_env_prints_what_this_command_and_the_openai_client_read(run: Run, service: Connection) -> None:
    exports = run("env").stdout.splitlines()
    for client in ("OPENAI_BASE_URL", "TUNESMITH_URL"):
        assert f"export {client}={service.base_url}" in exports
    for client in ("OPENAI_API_KEY", "TUNESMITH_API_KEY"):
        assert f"export {client}={service.api_key}" in exports


def test_workers_are_listed_with_their_hardware(run: Run, service: Connection) -> None:
    assert "cores" in run("workers").stdout


@pytest.mark.usefixtures("free_slot")
def test_the_openai_example_and_the_readme_are_the_same_and_work(
    service: Connection, run: Run, tiny_model: Path, environment: dict[str, str]
) -> None:
    example = ROOT / "examples" / "submit_with_openai.py"
    code = example.read_text(encoding="utf-8").partition('"""\n\n')[2]
    assert without_blank_lines(code) in without_blank_lines((ROOT / "README.md").read_text(encoding="utf-8"))

    assert run("models", "add", "my-base", "--path", tiny_model).returncode == 0
    shell = {**environment, "OPENAI_BASE_URL": service.base_url, "OPENAI_API_KEY": service.api_key}
    ended = subprocess.run([sys.executable, example], cwd=ROOT, env=shell, capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("succeeded ft:my-base:")
    assert "said Hello?" in ended.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("free_slot")
def test_the_nightly_script_brings_the_adapter_and_runs_twice_as_one_job(
    service: Connection, rows: Rows, environment: dict[str, str], tmp_path: Path
) -> None:
    first = nightly(rows(16), MODEL, tmp_path / "out", environment=environment)
    assert first.returncode == 0, first.stderr
    adapter = tmp_path / "out" / "adapter" / "adapter_model.safetensors"
    written_at = adapter.stat().st_mtime_ns
    assert str(adapter) in first.stdout

    again = nightly(tmp_path / "rows.jsonl", MODEL, tmp_path / "out", environment=environment)
    assert again.returncode == 0, again.stderr
    assert adapter.stat().st_mtime_ns == written_at


def test_the_nightly_script_hands_the_exit_code_on(
    service: Connection, rows: Rows, environment: dict[str, str], tmp_path: Path
) -> None:
    path = rows(16)
    assert nightly(path, "no-such-model", tmp_path, environment=environment).returncode == 7
    silent = {**environment, "TUNESMITH_URL": "http://127.0.0.1:9", "TUNESMITH_API_KEY": "x"}
    assert nightly(path, MODEL, tmp_path, environment=silent).returncode == 9


def test_only_a_finished_job_can_be_repeated(run: Run, long_job: str) -> None:
    refused = run("reproduce", long_job)
    assert refused.returncode == 7
    assert "nothing to compare with before it has succeeded" in refused.stderr


def test_a_wait_that_is_over_leaves_the_job_running(run: Run, long_job: str) -> None:
    waited = run("watch", long_job, "--timeout", "1s")
    assert waited.returncode == 5
    assert "goes on" in waited.stderr


def test_control_c_detaches_and_says_how_to_come_back(
    run: Run, long_job: str, environment: dict[str, str], home: Path
) -> None:
    with watched(long_job, environment) as watching:
        watching.send_signal(signal.SIGINT)
        told = watching.communicate(timeout=60)[1]
    assert watching.returncode == 130
    assert f"tunesmith watch {long_job}" in told
    assert f"tunesmith cancel {long_job}" in told
    assert status_of(run, long_job) in ("queued", "running")


def test_a_cancelled_job_has_its_own_exit_code(run: Run, long_job: str, rows: Rows) -> None:
    """It waits for the only slot, and is over at once; the cancel of one that runs is told below."""
    job_id = run("submit", rows(16), "--model", MODEL, "-o", "id").stdout.strip()
    assert run("cancel", job_id).returncode == 0
    assert run("watch", job_id).returncode == 4
    assert status_of(run, long_job) in ("queued", "running")


def test_a_paused_job_waits_until_it_is_resumed(run: Run, long_job: str) -> None:
    assert run("pause", long_job).returncode == 0
    eventually(lambda: status_of(run, long_job) == "paused", what="the pause")
    assert run("watch", long_job, "--timeout", "1s").returncode == 5
    assert run("resume", long_job).returncode == 0
    assert status_of(run, long_job) in ("queued", "running")


def test_following_outlives_a_killed_api(run: Run, long_job: str, environment: dict[str, str], home: Path) -> None:
    with watched(long_job, environment) as watching:
        os.kill(api_process(home / "data"), signal.SIGKILL)
        eventually(lambda: run("get", long_job).returncode == 0, what="the return of the API")
        assert watching.poll() is None
        run("cancel", long_job)
        watching.communicate(timeout=120)
    assert watching.returncode == 4


@contextmanager
def watched(job_id: str, environment: dict[str, str]) -> "Iterator[subprocess.Popen[str]]":
    """`tunesmith watch` as a process that has begun to follow; its end is the block's, however the test goes."""
    command = [TUNESMITH, "watch", job_id]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as watching:
        try:
            assert watching.stderr is not None
            watching.stderr.readline()
            yield watching
        finally:
            watching.kill()


def status_of(run: Run, job_id: str) -> str:
    return str(json.loads(run("get", job_id, "-o", "json").stdout)["status"])


def api_process(data_dir: Path) -> int:
    """The process that serves the public API of the installation in `data_dir`."""
    (found,) = [pid for pid in strays.find(data_dir) if b"public" in command_of(pid) and os.getsid(pid) == pid]
    return found


def command_of(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def without_blank_lines(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if line)


def nightly(*words: object, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    script = ROOT / "examples" / "nightly_retrain.sh"
    assert os.access(script, os.X_OK)
    command = [str(script), *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)
