"""What a pipeline reads afterwards: JUnit, a summary, annotations, outputs; and how a gate judges."""

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests import answers
from tunesmith.cli.ci.ending import Champion, Ending, result_point
from tunesmith.cli.ci.gate import Check, judge
from tunesmith.cli.ci.github import annotations, append_outputs
from tunesmith.cli.ci.job_file import Gate
from tunesmith.cli.ci.junit import write_junit
from tunesmith.cli.ci.pipeline import Pipeline
from tunesmith.cli.ci.summary import summary_lines
from tunesmith.cli.exit_codes import ExitCode
from tunesmith.cli.yaml_lines import Problem
from tunesmith.tuning.api.metrics import MetricPoint, SampleAnswer, SampleObject

POINTS = [
    MetricPoint(step=0, valid_loss=3.0, valid_mean_token_accuracy=0.2),
    MetricPoint(step=1, train_loss=2.5),
    MetricPoint(step=2, train_loss=2.0, valid_loss=1.5, valid_mean_token_accuracy=0.6),
]
EVIL = "<script>alert(1)</script> | `x` \x1b[31m\x00 \n::error::forged\n</pre> ## title"


@pytest.mark.parametrize(
    ("gate", "passed"),
    [
        (Gate(max_validation_loss=1.5), [True]),
        (Gate(max_validation_loss=1.49), [False]),
        (Gate(min_token_accuracy=0.6), [True]),
        (Gate(min_token_accuracy=0.61), [False]),
        (Gate(max_validation_loss=2, min_token_accuracy=0.7), [True, False]),
        (Gate(), []),
    ],
)
def test_a_gate_compares_the_result_with_every_bound(gate: Gate, passed: list[bool]) -> None:
    assert [check.passed for check in judge(gate, POINTS[-1])] == passed


def test_what_was_not_measured_is_not_good_enough() -> None:
    for result in (None, MetricPoint(step=1, valid_loss=None), MetricPoint(step=1, valid_loss=float("nan"))):
        assert [check.passed for check in judge(Gate(max_validation_loss=9), result)] == [False]


def test_the_result_is_judged_by_the_weights_that_were_kept() -> None:
    worse = [*POINTS, MetricPoint(step=3, valid_loss=1.9)]
    plain = answers.job("ftjob-1", status="succeeded")
    kept = plain.model_copy(update={"tunesmith": plain.tunesmith.model_copy(update={"result": {"best_step": 2}})})
    assert result_point(kept, worse) == POINTS[2]
    assert result_point(plain, worse) == worse[-1]
    assert result_point(kept, POINTS[1:2]) is None


def ending(code: ExitCode = ExitCode.SUCCEEDED, **parts: object) -> Ending:
    job = answers.job("ftjob-1", status="succeeded")
    return Ending(code, f"It ended: {EVIL}", **{"job": job, "points": POINTS, **parts})  # type: ignore[arg-type]


def test_the_summary_has_numbers_gate_and_samples_and_nothing_in_them_is_markup() -> None:
    sample = SampleObject(
        line=4,
        prompt_end=EVIL,
        reference=EVIL,
        answers=[SampleAnswer(step=0, answer=EVIL, finished=True), SampleAnswer(step=2, answer="fine", finished=True)],
    )
    page = "\n".join(
        summary_lines(
            ending(
                samples=[sample],
                checks=[Check("max_validation_loss", True, EVIL)],
                champion=Champion("ft:old", 1.6, is_on_the_same_rows=False),
                problems=[Problem("rows.jsonl", 7, EVIL)],
            )
        )
    )
    assert "| validation loss | 3.0000 to **1.5000** |" in page
    assert "| token accuracy | 20.0% to **60.0%** |" in page
    assert "1.6000, this one is 0.1000 better; on other held-out rows" in page
    assert "`rows.jsonl` line 7: " in page
    assert "[step 2]\nfine" in page.replace("\n&#8203;\n", "\n\n")
    assert "<script>" not in page
    assert "\n## " not in page
    assert page.count("</pre>") == 1


def test_names_of_files_are_shown_as_they_are() -> None:
    page = "\n".join(summary_lines(ending(problems=[Problem("held_out*`1`.jsonl", 7, "no JSON")])))
    assert "- `held_out*'1'.jsonl` line 7: no JSON" in page


def test_a_champion_with_the_same_loss_is_neither_better_nor_worse() -> None:
    page = "\n".join(summary_lines(ending(champion=Champion("ft:old", 1.500001, is_on_the_same_rows=True))))
    assert "1.5000, this one is the same |" in page


def test_a_champion_that_nobody_knows_is_said_to_be_one() -> None:
    page = "\n".join(summary_lines(ending(missing_champion="ft:gone")))
    assert "| champion ft:gone | nothing is known of it to compare with |" in page


def test_junit_is_xml_whatever_a_log_has(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "out.xml"
    write_junit(path, ending(ExitCode.GATE, checks=[Check("max_validation_loss", False, EVIL)]))
    suite = ET.parse(path).getroot()  # noqa: S314 - our own
    cases = {case.attrib["name"]: [child.tag for child in case] for case in suite.iter("testcase")}
    assert cases == {
        "job file": [],
        "data": [],
        "submission": [],
        "training": [],
        "gate max_validation_loss": ["failure"],
    }
    assert (suite.attrib["tests"], suite.attrib["failures"]) == ("5", "1")


def test_steps_behind_a_refusal_are_skipped(tmp_path: Path) -> None:
    refused = Ending(ExitCode.REJECTED, "No.", refused="data", problems=[Problem("rows.jsonl", 3, "no JSON")])
    assert [(step.name, step.state) for step in refused.steps] == [
        ("job file", "passed"),
        ("data", "failed"),
        ("submission", "skipped"),
        ("training", "skipped"),
    ]
    assert "rows.jsonl:3: no JSON" in next(step.message for step in refused.steps if step.name == "data")


def test_annotations_and_outputs_cannot_be_forged(tmp_path: Path) -> None:
    bad = ending(ExitCode.GATE, problems=[Problem("a:b,c.jsonl", 3, EVIL)])
    lines = list(annotations(bad))
    assert len(lines) == 1
    assert lines[0].startswith("::error file=a%3Ab%2Cc.jsonl,line=3::<script>")
    assert "\n" not in lines[0]
    append_outputs(tmp_path / "outputs", bad)
    written = (tmp_path / "outputs").read_text().splitlines()
    assert [line.partition("=")[0] for line in written] == [
        "exit-code", "headline", "job-id", "status", "model", "validation-loss", "token-accuracy", "gate",
    ]  # fmt: skip
    assert written[5:7] == ["validation-loss=1.5", "token-accuracy=0.6"]
    assert list(annotations(ending())) == []


def test_the_pipeline_is_known_by_its_environment() -> None:
    assert Pipeline.of({}) == Pipeline(None, is_github=False, summary=None, outputs=None)
    github = Pipeline.of({"GITHUB_ACTIONS": "true", "GITHUB_SHA": "abc", "GITHUB_STEP_SUMMARY": "/s"})
    assert (github.commit, github.is_github, github.summary) == ("abc", True, Path("/s"))
    assert Pipeline.of({"CI_COMMIT_SHA": "def"}).commit == "def"
