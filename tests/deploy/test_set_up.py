"""Setting up says what it is at, whatever the installer says."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.project.test_house import ROOT


@pytest.fixture(scope="module")
def set_up() -> ModuleType:
    spec = importlib.util.spec_from_file_location("set_up", ROOT / "deploy" / "set_up.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_packages_are_told_and_a_silent_installer_is_spoken_for(
    set_up: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "weights").write_bytes(b"x" * 3_000_000)
    script = "import time; print('Collecting torch', flush=True); print('  details'); time.sleep(1); exit(3)"
    code = set_up.run("install", [sys.executable, "-c", script], watched=tmp_path, silence_seconds=0.05)
    told = capsys.readouterr()
    assert code == 3
    assert "s  Collecting torch" in told.out
    assert told.out.count("3 MB in") >= 2
    assert "details" not in told.out
    assert "  details\n" in told.err, "the last words of what failed are shown"
    assert "install failed: " in told.err


def test_uv_is_taken_where_there_is_one_and_leaves_pip_for_the_demo(set_up: ModuleType, tmp_path: Path) -> None:
    with_pip, with_uv = (dict(set_up.environment(tmp_path, uv)) for uv in (None, "/bin/uv"))
    assert with_uv["make the environment"][:2] == ["/bin/uv", "venv"]
    assert "--seed" in with_uv["make the environment"]
    for steps, name in ((with_pip, "pip"), (with_uv, "uv")):
        command = steps[f"install with {name}"]
        assert command[-1].endswith("[service,worker,embedded,data,demo,dev]")
        assert str(ROOT / "constraints.txt") in command


@pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv on the path")
def test_a_real_uv_makes_an_environment_with_pip_once_and_takes_the_pins(set_up: ModuleType, tmp_path: Path) -> None:
    venv, uv = tmp_path / "venv", str(shutil.which("uv"))
    (_, make), (_, install) = list(set_up.environment(venv, uv))[:2]
    for _ in range(2):  # `make setup` again adds to what is there
        assert set_up.run("make the environment", make, watched=venv) == 0
    assert subprocess.run([venv / "bin" / "python", "-m", "pip", "--version"], check=False).returncode == 0
    pinned = [*install[: install.index("--editable")], "--dry-run", "--no-deps", "rich"]
    told = subprocess.run(pinned, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    version = re.search(r"^rich==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert version is not None
    assert f"rich=={version[1]}" in told.stderr


@pytest.mark.parametrize("has_gpu", [True, False])
def test_deepspeed_is_built_where_a_gpu_is(
    set_up: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_gpu: bool
) -> None:
    monkeypatch.setattr(set_up, "has_gpu", lambda: has_gpu)
    assert ("build DeepSpeed" in dict(set_up.environment(tmp_path, None))) == has_gpu
