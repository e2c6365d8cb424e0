"""`tunesmith submit --plan`: what would run is shown, and a person decides."""

import json
import os
import pty
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.command import Run, in_process
from tests.control_plane import ControlPlane, chat_rows
from tests.service.planning.test_plans import BIG_CONFIG


@pytest.fixture
def run(control_plane: ControlPlane) -> Run:
    service = {"TUNESMITH_URL": f"{control_plane.url}/v1", "TUNESMITH_API_KEY": control_plane.keys["member"]}
    return in_process({"PATH": os.environ["PATH"], "COLUMNS": "200", **service})


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "support.jsonl"
    path.write_bytes(chat_rows(40))
    return path


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """A terminal at which somebody has typed something."""
    keyboard, terminal = pty.openpty()
    with os.fdopen(terminal) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield lambda text: os.write(keyboard, text.encode()) and None
    os.close(keyboard)


def jobs(plane: ControlPlane) -> int:
    return int(plane.sql("SELECT count(*) FROM jobs")[0][0])


def test_a_plan_is_shown_and_nothing_is_sent_when_the_answer_is_no(
    control_plane: ControlPlane, run: Run, rows: Path, answers: Callable[[str], None]
) -> None:
    control_plane.worker()
    answers("n\n")
    told = run("submit", rows, "--model", "tiny-llama", "--plan")
    assert (told.returncode, told.stdout) == (0, "")
    for word in ("support.jsonl  40 rows", "FLEET", "recipe  ", "Submit this job? [y/N]", "Nothing was submitted."):
        assert word in told.stderr, word
    assert (jobs(control_plane), control_plane.sql("SELECT count(*) FROM files")) == (0, [(0,)])


def test_a_job_is_made_when_the_answer_is_yes_and_its_id_is_all_of_stdout(
    control_plane: ControlPlane, run: Run, rows: Path, answers: Callable[[str], None]
) -> None:
    control_plane.worker()
    answers("y\n")
    asked = ("--rank", "4", "--epochs", "2", "--priority", "3", "--wandb", "support", "--alpha", "8")
    told = run("submit", rows, "--model", "tiny-llama", *asked, "--plan", "-o", "id")
    assert told.returncode == 0, told.stderr
    assert "rank 4, alpha 8" in told.stderr
    assert "2 epochs" in told.stderr
    job = control_plane.job(told.stdout.strip())
    assert (job["hyperparameters"]["n_epochs"], job["tunesmith"]["priority"]) == (2, 3)
    assert job["integrations"][0]["wandb"]["project"] == "support"


def test_without_a_terminal_yes_is_needed_and_enough(control_plane: ControlPlane, run: Run, rows: Path) -> None:
    control_plane.worker()
    refused = run("submit", rows, "--model", "tiny-llama", "--plan")
    assert (refused.returncode, "--yes" in refused.stderr, jobs(control_plane)) == (2, True, 0)
    told = run("submit", rows, "--model", "tiny-llama", "--plan", "--yes", "-o", "json")
    assert json.loads(told.stdout)["status"] == "queued"
    assert "FLEET" in told.stderr


def test_a_job_that_fits_nowhere_is_not_submitted(control_plane: ControlPlane, run: Run, rows: Path) -> None:
    control_plane.worker()
    control_plane.add_model("big", config=BIG_CONFIG)
    refused = run("submit", rows, "--model", "big", "--plan", "--yes")
    assert (refused.returncode, jobs(control_plane)) == (7, 0)
    assert "Nothing was submitted" in refused.stderr


def test_the_plan_knows_of_the_rows_that_are_only_measured_on(
    control_plane: ControlPlane, run: Run, rows: Path, tmp_path: Path
) -> None:
    control_plane.worker()
    validation = tmp_path / "validation.jsonl"
    validation.write_bytes(chat_rows(7))
    told = run("submit", rows, "--model", "tiny-llama", "--validation", validation, "--plan", "--yes")
    assert told.returncode == 0, told.stderr
    uploaded = control_plane.job(told.stdout.strip())
    told = run("submit", uploaded["training_file"], "--model", "tiny-llama", "--plan", "--yes",
               "--validation", uploaded["validation_file"])  # fmt: skip
    assert told.returncode == 0, told.stderr
    dataset = control_plane.job(told.stdout.strip())["tunesmith"]["dataset"]
    assert (dataset["rows"], dataset["validation_rows"]) == (40, 7)


def preference_pairs(count: int = 20) -> bytes:
    pairs = [{"prompt": f"{i} + 1?", "chosen": str(i + 1), "rejected": str(i)} for i in range(count)]
    return "".join(json.dumps(pair) + "\n" for pair in pairs).encode()


@pytest.mark.parametrize(("asked", "beta"), [((), "auto"), (("--beta", "0.3"), 0.3)])
def test_preference_pairs_say_themselves_what_is_learned(
    control_plane: ControlPlane, run: Run, rows: Path, asked: tuple[str, ...], beta: object
) -> None:
    rows.write_bytes(preference_pairs())
    words = (rows, "--model", "tiny-llama", *asked, "--epochs", "2")
    made = run("submit", *words, "-o", "id")
    assert made.returncode == 0, made.stderr
    method = control_plane.job(made.stdout.strip())["method"]
    assert method["type"] == "dpo"
    assert (method["dpo"]["hyperparameters"]["beta"], method["dpo"]["hyperparameters"]["n_epochs"]) == (beta, 2)


def test_a_beta_for_rows_that_are_no_pairs_is_refused(control_plane: ControlPlane, run: Run, rows: Path) -> None:
    control_plane.worker()
    refused = run("submit", rows, "--model", "tiny-llama", "--beta", "0.3")
    assert (refused.returncode, "preference pairs" in refused.stderr, jobs(control_plane)) == (7, True, 0)
    refused = run("plan", rows, "--model", "tiny-llama", "--beta", "0.3")
    assert (refused.returncode, "--beta" in refused.stderr) == (2, True)


def test_plan_counts_the_rows_that_are_only_measured_on(
    control_plane: ControlPlane, run: Run, rows: Path, tmp_path: Path
) -> None:
    control_plane.worker()
    validation = tmp_path / "validation.jsonl"
    validation.write_bytes(chat_rows(7))
    words = ("plan", rows, "--model", "tiny-llama", "-o", "json")
    dataset = json.loads(run(*words, "--validation", validation).stdout)["dataset"]
    assert (dataset["rows"], dataset["validation_rows"], dataset["held_out_rows"]) == (40, 7, 0)
    whole = json.loads(run(*words, "--validation", "none").stdout)["dataset"]
    assert (whole["rows"], whole["validation_rows"]) == (40, 0)
    assert run(*words, "--validation", tmp_path / "nowhere").returncode == 2


def test_following_a_job_in_line_says_who_is_ahead_and_when_it_starts(
    control_plane: ControlPlane, run: Run, rows: Path
) -> None:
    control_plane.worker()
    control_plane.claimed()
    control_plane.create_job()
    told = run("submit", rows, "--model", "tiny-llama", "--wait", "--timeout", "1s")
    assert told.returncode == 5
    assert "number 2 in line, 1 job ahead, starts in about" in told.stderr, told.stderr


def test_a_job_in_line_says_who_is_ahead_and_when_it_starts(control_plane: ControlPlane, run: Run) -> None:
    control_plane.worker()
    control_plane.claimed()
    control_plane.create_job(key="stranger", training_file=control_plane.upload(key="stranger"))
    first, second = (control_plane.create_job()["id"] for _ in range(2))
    told = {job: run("get", job).stdout for job in (first, second)}
    assert "in line" in told[second]
    assert "ahead, 1 of other projects" in told[second]
    assert "starts in about" in told[second]
    assert told[first] != told[second]
