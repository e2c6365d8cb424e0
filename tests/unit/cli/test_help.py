"""The first things a newcomer types."""

import subprocess
import sys

from tests.command import Run


def test_help_lists_every_verb(run: Run) -> None:
    told = run("--help").stdout
    for verb in ("up", "doctor", "env", "demo", "submit", "ls", "get", "logs", "watch", "cancel", "pause", "resume"):
        assert f" {verb} " in told
    for verb in ("events", "reproduce", "artifacts", "models", "files", "workers", "version", "ci", "webhooks"):
        assert f" {verb} " in told
    for verb in ("schedules", "aliases", "chat"):
        assert f" {verb} " in told


def test_up_shows_its_own_options(run: Run) -> None:
    assert "--data-dir" in run("up", "--help").stdout


def test_help_imports_nothing_heavy() -> None:
    heavy = {"httpx2", "pydantic", "torch", "openai", "psutil"}
    look = f"import sys, tunesmith.local.main; print(*sorted({heavy} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == ""


def test_without_a_service_the_next_step_is_told(run: Run, tmp_path: object) -> None:
    silent = run("ls", env={"TUNESMITH_DATA_DIR": str(tmp_path)})
    assert silent.returncode == 9
    assert "tunesmith up" in silent.stderr


def test_a_misspelt_verb_is_a_usage_error(run: Run) -> None:
    assert run("submitt").returncode == 2
