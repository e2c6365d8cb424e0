"""What a contributor meets first: the licence, the linters before a commit, and the tests that run in seconds."""

import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
APACHE_2_0 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"  # of the text on apache.org


def project() -> dict[str, Any]:
    loaded: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return loaded


def commands_before_a_commit() -> list[str]:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    return [hook["entry"] for repository in config["repos"] for hook in repository["hooks"]]


def recipe(target: str) -> str:
    """The commands of a target of the Makefile, without those that build the environment they run in."""
    command = [
        "make",
        "--no-print-directory",
        "--dry-run",
        "--always-make",
        "VENV=.venv",
        "--old-file=.venv/.installed",
    ]
    return subprocess.run([*command, target], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def run_pytest(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    tool = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(tool, cwd=folder, check=False, capture_output=True, text=True)


def test_the_licence_is_the_one_that_the_package_names() -> None:
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2_0
    assert (project()["license"], project()["license-files"]) == ("Apache-2.0", ["LICENSE"])


def test_every_file_that_is_to_begin_first_is_there() -> None:
    listed = (ROOT / "tests/longest_first.txt").read_text(encoding="utf-8").split()
    assert listed
    assert [name for name in listed if not (ROOT / name).is_file()] == []
    assert "--no-loadscope-reorder" in recipe("test"), "pytest-xdist would begin with the files of most tests"


def test_a_commit_is_held_to_what_make_lint_runs() -> None:
    linted = {Path(line.split()[0]).name for line in recipe("lint").splitlines() if line}
    assert {Path(command.split()[0]).name for command in commands_before_a_commit()} == linted


def test_every_development_tool_has_an_exact_version() -> None:
    pinned = {_name(line) for line in _constraints()}
    wanted = {_name(requirement) for requirement in project()["optional-dependencies"]["dev"]}
    assert wanted <= pinned


def test_the_fast_tests_are_collected_without_importing_torch() -> None:
    collected = run_pytest("@tests/fast.txt", "--collect-only")
    assert collected.returncode == 0, collected.stdout
    assert "planner/test_choose.py" in collected.stdout


def test_a_test_that_imports_torch_cannot_be_fast(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_addoption, pytest_configure\n")
    (tmp_path / "test_slow.py").write_text("import torch\n\n\ndef test_it() -> None: ...\n")
    refused = run_pytest("--no-torch", "-c", "/dev/null", "--rootdir", str(tmp_path), str(tmp_path / "test_slow.py"))
    assert refused.returncode != 0
    assert "The fast tests import no torch" in refused.stdout


def _constraints() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if "==" in line]


def _name(requirement: str) -> str:
    return re.split(r"[>=\[]", requirement, maxsplit=1)[0].lower().replace("_", "-")
