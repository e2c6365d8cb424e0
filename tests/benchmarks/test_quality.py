"""The quality benchmark: rows and their split, baselines, scoring, verdicts, and one run with a tiny model."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.quality.baselines import accuracies
from benchmarks.quality.one import run_once, scores
from benchmarks.quality.packages import (
    SECTIONS,
    NoPackageIndex,
    Package,
    Split,
    is_held_out,
    parse,
    read_index,
    row_of,
    split,
)
from benchmarks.quality.report import difference, render
from benchmarks.quality.run import alone, finished
from benchmarks.quality.score import score, tree_of
from tests.tiny_model import build_tiny_model

REPOSITORY = Path(__file__).parents[2]

INDEX = """\
Package: knights
Version: 1
Section: games
Description: chess interface
Description-md5: 00

Package: knights-data
Source: knights (1.0)
Section: games
Description: chess interface (data files)

Package: steam
Section: contrib/games
Description: digital store
 A second line that is not the summary.

Package: nothing-to-say
Section: web
"""


def index(each: int) -> list[Package]:
    """`each` sources of every section, each with a program and its data."""
    return [
        Package(name=f"{source}{suffix}", source=source, section=section, summary=f"about {section}")
        for section in SECTIONS
        for source in (f"{section}-{number}" for number in range(each))
        for suffix in ("", "-data")
    ]


def test_the_index_gives_name_source_section_without_its_area_and_summary():
    assert list(parse(INDEX.splitlines())) == [
        Package("knights", "knights", "games", "chess interface"),
        Package("knights-data", "knights", "games", "chess interface (data files)"),
        Package("steam", "steam", "games", "digital store"),
    ]


def test_a_source_package_gives_one_row_on_one_side_and_every_section_has_as_many_rows():
    sides = split(index(40), training_rows=75, held_out_rows=150)
    assert len({package.source for package in (*sides.training, *sides.held_out)}) == 75 + 150
    for side, each in ((sides.training, 5), (sides.held_out, 10)):
        assert [sum(package.section == section for package in side) for section in SECTIONS] == [each] * len(SECTIONS)


def test_a_package_stays_on_its_side_when_the_index_grows():
    small = split(index(40), training_rows=75, held_out_rows=75)
    grown = split([*index(60), *index(40)], training_rows=75, held_out_rows=75)
    for sides in (small, grown):
        assert all(is_held_out(package.source) for package in sides.held_out)
        assert not any(is_held_out(package.source) for package in sides.training)


def test_the_order_of_the_index_does_not_matter():
    assert split(index(40), training_rows=75, held_out_rows=75) == split(
        index(40)[::-1], training_rows=75, held_out_rows=75
    )


def test_a_poor_index_is_refused_by_the_section_that_is_short():
    with pytest.raises(NoPackageIndex, match=r"section admin .*apt-get update"):
        split(index(3), training_rows=75, held_out_rows=75)


def test_an_empty_index_says_what_to_run(tmp_path: Path):
    (tmp_path / "index").write_text("")
    with pytest.raises(NoPackageIndex, match="apt-get update"):
        read_index(tmp_path / "index")


def test_a_machine_without_apt_is_told_so_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.quality.run", "--folder", str(tmp_path / "work")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert "no `apt-cache` here" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_baselines_find_what_the_names_give_away():
    found = accuracies(split(index(40), training_rows=75, held_out_rows=75))
    assert found["most frequent section"] == pytest.approx(1 / len(SECTIONS))
    assert found["nearest name prefix"] == 1.0
    assert found["naive Bayes over words"] == 1.0


def test_scores_of_all_answers_in_one_pass_equal_those_of_each_alone(tmp_path: Path):
    folder = build_tiny_model(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = [[5, 6, 7, 8, 9], [20, 21], [30, 31, 32]]
    answers = [[40], [41, 42, 43], [41, 44], [45, 46]]
    found = score(model, [tree_of(prompt, answers) for prompt in prompts])
    for row, prompt in enumerate(prompts):
        for column, answer in enumerate(answers):
            with torch.no_grad():
                logits = model(torch.tensor([prompt + answer])).logits[0].log_softmax(dim=-1)
            alone = sum(float(logits[len(prompt) - 1 + at, token]) for at, token in enumerate(answer))
            assert float(found[row, column]) == pytest.approx(alone, abs=1e-4)


def record(name: str, chosen: list[int], right: list[int], **values: Any) -> dict[str, Any]:
    accuracy = sum(a == b for a, b in zip(chosen, right, strict=True)) / len(right)
    measured = {"loss": 1.0, "training_seconds": 1.0, "peak_memory_bytes": 1e9, "trainable_parameters": 1000}
    return {
        "configuration": name,
        "seed": 0,
        "learning_rate": 1e-4,
        "alpha": 8.0,
        "chosen": chosen,
        "accuracy": accuracy,
        **measured,
        **values,
    }


def test_a_difference_of_a_few_rows_is_called_chance_and_one_of_many_is_not():
    right = [0] * 100
    good, little_worse, bad = ([0] * (100 - wrong) + [1] * wrong for wrong in (10, 12, 60))
    little = difference([record("full", good, right)], [record("lora-r4", little_worse, right)], right=right)
    assert little.mean == pytest.approx(0.02)
    assert little.verdict == "cannot be told apart"
    large = difference([record("full", good, right)], [record("lora-r4", bad, right)], right=right)
    assert large.standard_error == pytest.approx(math.sqrt(0.5 * 0.5 / 99))
    assert large.verdict == "shown"
    assert difference([record("full", bad, right)], [record("lora-r4", good, right)], right=right).verdict == (
        "contradicted"
    )


def test_seeds_that_disagree_widen_the_error():
    right = [0] * 100
    steady = [record("full", [0] * 80 + [1] * 20, right) for _ in range(2)]
    unsteady = [record("lora-r4", [0] * rows + [1] * (100 - rows), right) for rows in (60, 90)]
    same_mean = [record("lora-r4", [0] * 75 + [1] * 25, right) for _ in range(2)]
    narrow = difference(steady, same_mean, right=right).standard_error
    assert difference(steady, unsteady, right=right).standard_error > 2 * narrow


def prepared(folder: Path, *, model: Path) -> dict[str, Any]:
    """What `run` prepares, for a tiny model and a few rows."""
    sides = split(index(40), training_rows=30, held_out_rows=30)
    folder.mkdir()
    (folder / "training.jsonl").write_text("".join(json.dumps(row_of(package)) + "\n" for package in sides.training))
    held_out = {
        "prompts": [row_of(package)["prompt"] for package in sides.held_out],
        "answers": [f" {section}" for section in SECTIONS],
        "right": [SECTIONS.index(package.section) for package in sides.held_out],
    }
    (folder / "held_out.json").write_text(json.dumps(held_out))
    task = {
        "training_rows": 30,
        "epochs": 1,
        "rows_per_step": 8,
        "sha256": "this",
        "sections": list(SECTIONS),
        "baselines": accuracies(Split(sides.training, sides.held_out)),
        "model_dir": str(model),
        "machine": "a machine",
        "versions": {"torch": torch.__version__},
        "dataset": {"rows": 30, "tokens": 1200, "longest_row_tokens": 60, "supervised_tokens": 90},
    }
    (folder / "task.json").write_text(json.dumps(task))
    return task


@pytest.mark.slow
def test_one_run_trains_scores_keeps_its_numbers_and_drops_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(REPOSITORY)
    folder = tmp_path / "work"
    task = prepared(folder, model=build_tiny_model(tmp_path / "model"))
    trained = run_once(folder, "lora-r4", seed=1)
    assert 0 <= trained["accuracy"] <= 1
    assert trained["steps"] == 4
    assert trained["trained_tokens"] > 0
    assert len(trained["chosen"]) == 30
    kept = folder / "runs" / "lora-r4-seed1"
    assert (kept / "metrics.jsonl").exists()
    assert not (kept / "output").exists()
    base = {"configuration": "base", "seed": 0, **scores(folder, output=None, four_bit=False)}
    assert base["loss"] != trained["loss"]
    right = json.loads((folder / "held_out.json").read_text())["right"]
    table = render(task, [base, {"configuration": "lora-r4", "seed": 1, **trained}], right=right)
    assert f"| {base['accuracy']:.1%} | {trained['accuracy']:.1%} (" in table


def test_runs_of_other_rows_and_lines_cut_by_an_interruption_do_not_count(tmp_path: Path):
    lines = [json.dumps({"configuration": "full", "seed": seed, "task": task}) for seed, task in ((0, "a"), (1, "b"))]
    (tmp_path / "results.jsonl").write_text("\n".join([*lines, lines[0][:20]]))
    assert [run["seed"] for run in finished(tmp_path, {"sha256": "a"})] == [0]


def test_two_benchmarks_never_work_in_one_folder(tmp_path: Path):
    with alone(tmp_path), pytest.raises(SystemExit, match="at work"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass
