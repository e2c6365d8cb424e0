"""`tunesmith data check`: what is told of a file, without a service."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import Run, in_process
from tests.tiny_model import build_tokenizer
from tests.waiting import eventually

ROOT = Path(__file__).parents[4]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return in_process({"PATH": "/usr/bin", "TUNESMITH_DATA_DIR": str(tmp_path / "none"), "NO_COLOR": "1"})


def rows(path: Path, *texts: str) -> Path:
    path.write_text("".join(json.dumps({"prompt": text, "completion": "yes"}) + "\n" for text in texts))
    return path


def test_a_good_file_is_counted_and_its_suspicions_told_without_values(run: Run, tmp_path: Path) -> None:
    ended = run("data", "check", rows(tmp_path / "a.jsonl", "a", "mail x@example.org", "a"))
    assert ended.returncode == 0, ended.stderr
    assert "format completion; 3 good rows" in ended.stdout
    assert "1 row repeated: line 3" in ended.stdout
    assert "e-mail address: line 2" in ended.stdout
    assert "example" not in ended.stdout


def test_a_bad_row_is_told_with_line_reason_and_fix(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\n')
    ended = run("data", "check", tmp_path / "a.jsonl")
    assert ended.returncode == 7
    assert "line 2: " in ended.stdout


def test_the_same_file_twice_is_a_warning(run: Run, tmp_path: Path) -> None:
    file = rows(tmp_path / "a.jsonl", "a", "b")
    ended = run("data", "check", file, "--validation", file)
    assert ended.returncode == 0
    assert "every validation row is trained on" in ended.stderr
    apart = run("data", "check", file, "--validation", rows(tmp_path / "b.jsonl", "b", "c"))
    assert "1 row also in the training file: line 1" in apart.stdout
    assert "warning" not in apart.stderr


def test_a_models_tokenizer_counts_and_tells_what_limits_cut(run: Run, tmp_path: Path) -> None:
    model = build_tokenizer(tmp_path / "model")
    ended = run("data", "check", rows(tmp_path / "a.jsonl", "0 " * 600, "a"), "--model", model, "-o", "json")
    tokens = json.loads(ended.stdout)["tokens"]
    assert tokens["rows"] == 2
    assert [(cut["limit"], cut["rows"]) for cut in tokens["cuts"]][:1] == [(512, 1)]
    assert tokens["cuts"][0]["tokens"] == tokens["longest_row_tokens"] - 512


def test_a_csv_is_checked_as_what_it_becomes(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\nwhy,because\n")
    ended = run("data", "check", tmp_path / "a.csv")
    assert "1 good row" in ended.stdout
    assert "question as prompt" in ended.stderr


def test_a_preview_without_a_model_says_what_it_needs(run: Run, tmp_path: Path) -> None:
    ended = run("data", "check", rows(tmp_path / "a.jsonl", "a"), "--preview", 1)
    assert ended.returncode == 2
    assert "--model" in ended.stderr


def test_an_interrupt_halfway_leaves_nothing_behind(tmp_path: Path) -> None:
    pipe, aside = tmp_path / "rows.csv", tmp_path / "aside"
    aside.mkdir()
    os.mkfifo(pipe)
    writer = os.open(pipe, os.O_RDWR)  # kept open: the table has no end
    os.write(writer, b"prompt,completion\n" + b"a,b\n" * 1000)
    around = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TMPDIR": str(aside), "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "tunesmith.local.main", "data", "check", str(pipe)]
    with subprocess.Popen(command, env=around, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as checking:
        eventually(lambda: list(aside.glob("*/rows.jsonl")))
        checking.send_signal(signal.SIGINT)
        _, said = checking.communicate()
    os.close(writer)
    assert checking.returncode not in (0, 1)
    assert b"Traceback" not in said
    assert list(aside.iterdir()) == []
