"""The examples run as they are."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import Run
from tests.stack.installation import MODEL
from tunesmith.cli.connection import Connection

pytestmark = pytest.mark.timeout(180)

ROOT = Path(__file__).parents[2]


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
def test_the_nightly_script_brings_the_adapter_and_runs_twice_as_one_job(
    service: Connection, rows: Callable[..., Path], environment: dict[str, str], tmp_path: Path
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
    service: Connection, rows: Callable[..., Path], environment: dict[str, str], tmp_path: Path
) -> None:
    path = rows(16)
    assert nightly(path, "no-such-model", tmp_path, environment=environment).returncode == 7
    silent = {**environment, "TUNESMITH_URL": "http://127.0.0.1:9", "TUNESMITH_API_KEY": "x"}
    assert nightly(path, MODEL, tmp_path, environment=silent).returncode == 9


def without_blank_lines(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if line)


def nightly(*words: object, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    script = ROOT / "examples" / "nightly_retrain.sh"
    assert os.access(script, os.X_OK)
    command = [str(script), *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)
