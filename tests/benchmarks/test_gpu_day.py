"""The day on a GPU runs without one: every piece's code on tiny shapes; what was written survives a piece that dies."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import kernels, memory, setting, shapes, speed
from benchmarks.gpu.__main__ import main

pytestmark = pytest.mark.filterwarnings("ignore")


def run(piece: str, out: Path, *more: str) -> list[dict[str, Any]]:
    assert main([piece, "--device", "cpu", "--tiny", "--out", str(out), *more]) == 0
    file = out / f"{piece}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.slow
def test_every_attention_and_operation_is_held_against_fp64(tmp_path: Path) -> None:
    found = [line for line in run("kernels", tmp_path) if line.get("outcome") == "ok"]
    assert {line["kind"] for line in found} == {"attention", "elementwise", "float8", "joined"}
    assert {line["case"] for line in found if line["kind"] == "attention"} == set(kernels.CASES)
    assert max(line["error"] for line in found if "error" in line) < 0.02


@pytest.mark.slow
def test_peaks_stand_beside_the_planners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CASES", (("1b", "full"), ("1b", "lora")))
    peaks = [line for line in run("memory", tmp_path) if "ratio" in line]
    assert {(line["method"], line["mode"]) for line in peaks} == {
        (method, mode) for method in ("full", "lora") for mode in memory.MODES
    }
    assert all(line["losses"][1] < line["losses"][0] for line in peaks)


@pytest.mark.slow
def test_speeds_have_both_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = [case for case in speed.cases() if case.side != "compiled" and case.method != "qlora"]
    monkeypatch.setattr(speed, "cases", lambda: iter(every))
    found = [line for line in run("speed", tmp_path) if line.get("outcome") == "ok"]
    assert {line["side"] for line in found} == {"ours", "peft"}
    assert len(found) == len(every)
    assert min(line["tokens_per_second"] for line in found) > 0


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    (line,) = [line for line in run("ranks", tmp_path) if "case" in line]
    assert line["outcome"] == "ok", line
    assert line["equal_among_processes"] is True


@pytest.mark.slow
def test_the_tests_for_a_gpu_pass_on_a_cpu_where_they_can(tmp_path: Path) -> None:
    found = {line["test"]: line["outcome"] for line in run("tests", tmp_path) if "test" in line}
    assert {told for told in found.values() if not told.startswith("skipped")} == {"ok"}, found
    assert "test_ten_steps_lower_the_loss_within_the_memory_that_was_planned[lora]" in found


@pytest.mark.slow
def test_a_piece_that_dies_leaves_its_results_and_the_table_takes_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_elementwise", lambda _: exec("raise KeyboardInterrupt"))  # noqa: S102
    with pytest.raises(KeyboardInterrupt):
        run("kernels", tmp_path)
    assert run("table", tmp_path) == []
    table = (tmp_path / "results.md").read_text()
    assert "heads of 128, grouped" in table
    assert "this proves the script and measures nothing" in table
    assert len(json.loads((tmp_path / "results.json").read_text())["kernels"]) > len(kernels.CASES)


@pytest.mark.slow
def test_a_piece_without_time_says_what_it_left_out(tmp_path: Path) -> None:
    found = run("kernels", tmp_path, "--budget", "0")
    assert "left out: no time left in this piece" in {line.get("outcome") for line in found}


@pytest.mark.slow
def test_a_configuration_that_fails_says_why_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: Any, method: str, **named: Any) -> Any:
        if method == "full":
            raise RuntimeError("no kernel image is available\nfor this device")
        return right(*_, method=method, **named)

    right = shapes.build
    monkeypatch.setattr(shapes, "build", build)
    monkeypatch.setattr(memory, "CASES", (("1b", "full"), ("1b", "lora")))
    outcomes = {
        line["method"]: line["outcome"] for line in run("memory", tmp_path) if line.get("mode") == "all of these"
    }
    assert outcomes == {"full": "failed: RuntimeError: no kernel image is available", "lora": "ok"}


def test_what_is_missing_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setting, "missing", lambda *_: ["pydantic", "psutil"])
    assert main(["all", "--out", str(tmp_path), "--wheels", str(tmp_path / "wheels")]) == 2
    assert capsys.readouterr().out.startswith(
        "Missing, and needed by every piece: pydantic, psutil. Carry their wheels"
    )


def test_a_carried_wheel_is_imported_without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import zipfile

    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(setting.tempfile, "gettempdir", lambda: str(tmp_path / "unpacked"))
    with zipfile.ZipFile(tmp_path / "carried_along-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried_along/__init__.py", "answer = 42\n")
    assert setting.missing(("carried_along",)) == ["carried_along"]
    assert setting.carry_wheels(tmp_path) == ["carried_along-1.0-py3-none-any.whl"]
    assert setting.missing(("carried_along",)) == []
