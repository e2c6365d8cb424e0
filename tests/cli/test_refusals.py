"""What the command refuses, with the field, the reason and its exit code: the service that it asks has no worker."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import Run, in_process
from tests.control_plane import ControlPlane
from tests.stack.installation import MODEL

Rows = Callable[..., Path]


@pytest.fixture
def run(control_plane: ControlPlane) -> Run:
    service = {"TUNESMITH_URL": f"{control_plane.url}/v1", "TUNESMITH_API_KEY": control_plane.keys["admin"]}
    return in_process({"PATH": os.environ["PATH"], **service})


def test_early_stopping_without_held_out_rows_is_refused_before_anything_is_sent(run: Run, rows: Rows) -> None:
    refused = run("submit", rows(8), "--model", MODEL, "--validation", "none", "--early-stopping-patience", "2")
    assert refused.returncode == 2
    assert "held-out rows" in " ".join(refused.stderr.split())


def test_a_broken_model_folder_is_refused_before_anything_is_sent(run: Run, tmp_path: Path) -> None:
    refused = run("models", "add", "broken", "--path", tmp_path)
    assert refused.returncode == 7
    assert "config.json" in refused.stderr
    assert "broken" not in run("models", "ls").stdout.split()


def test_a_file_that_is_no_gguf_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"not this")
    refused = run("models", "add", "broken", "--gguf", tmp_path / "model.gguf")
    assert refused.returncode == 7
    assert "GGUF" in refused.stderr


def test_models_add_wants_exactly_one_source(run: Run) -> None:
    assert run("models", "add", "x").returncode == 2
    assert run("models", "add", "x", "--path", ".", "--hub", "a/b").returncode == 2


def test_a_bad_line_is_named_and_nothing_is_submitted(run: Run, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": [{"role": "user", "content": "no answer"}]}\n')
    refused = run("submit", bad, "--model", MODEL)
    assert refused.returncode == 7
    assert refused.stdout == ""
    assert "line 1" in refused.stderr.lower()


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--model", "nobody-knows-it"), 7, "model"),
        (("--model", MODEL, "--epochs", "0"), 7, "n_epochs"),
        (("--model", MODEL, "--rank", "0"), 7, "rank"),
        (("--model", MODEL, "--method", "magic"), 2, "--method"),
        (("--model", MODEL, "--timeout", "soon"), 2, "length of time"),
        (("--model", MODEL, "--metadata", "no-equals"), 2, "KEY=VALUE"),
        ((), 2, "--model"),
    ],
)
def test_a_wrong_submit_names_the_field(run: Run, rows: Rows, words: tuple[str, ...], code: int, told: str) -> None:
    refused = run("submit", rows(12), *words)
    assert refused.returncode == code
    assert told in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_file_that_is_not_here_is_a_usage_error(run: Run) -> None:
    assert run("submit", "nowhere.jsonl", "--model", MODEL).returncode == 2


def test_an_unknown_job_is_not_found(run: Run) -> None:
    for verb in ("get", "watch", "logs", "events", "samples", "cancel"):
        assert run(verb, "ftjob-nobody").returncode == 10


def test_a_wrong_key_is_told_from_a_silent_server(control_plane: ControlPlane, run: Run) -> None:
    wrong = {"TUNESMITH_URL": f"{control_plane.url}/v1", "TUNESMITH_API_KEY": "ts-wrong"}
    assert run("ls", env=wrong).returncode == 8
    silent = run("ls", env={"TUNESMITH_URL": "http://127.0.0.1:9", "TUNESMITH_API_KEY": "x"})
    assert silent.returncode == 9
    assert "tunesmith up" in silent.stderr
