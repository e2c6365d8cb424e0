"""A score on the command line, and an evaluation in words."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from tunesmith.cli.rendering.evaluation_text import describe
from tunesmith.cli.verbs.evaluate import score_of
from tunesmith.tuning.api.comparisons.evaluations import EvaluatedRowObject, EvaluationObject
from tunesmith.tuning.api.jobs import JobProgress
from tunesmith.tuning.evaluation import EvaluatedRow, SideResult, measures_of, pairs_of
from tunesmith.tuning.gate.verdict import GateRule, judge
from tunesmith.tuning.state import JobState


def test_a_score_is_written_as_its_kind_and_what_it_goes_by(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    assert score_of("exact") == {"type": "exact"}
    assert score_of("regex:^a:b$") == {"type": "regex", "pattern": "^a:b$"}
    assert score_of("choice:yes, no") == {"type": "choice", "labels": ["yes", "no"]}
    assert score_of(f"json_schema:{schema}") == {"type": "json_schema", "json_schema": {"type": "object"}}


@pytest.mark.parametrize("text", ["", "choice", "regex:", "json_schema:none.json", "bleu", "exact:1"])
def test_what_is_no_score_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        score_of(text)


def side(loss: float, *, hit: bool) -> SideResult:
    return SideResult(loss=10 * loss, correct=5, tokens=10, answer="yes" if hit else "no" * 100, finished=True, hit=hit)


def described(**changes: Any) -> list[str]:
    rows = [
        EvaluatedRow(line=line, expected="yes", model=side(1.5, hit=True), against=side(2.0, hit=line > 15))
        for line in range(1, 31)
    ]
    verdict = judge(pairs_of(rows), rule=GateRule())
    found = EvaluationObject(
        id="eval-1",
        created_at=1,
        finished_at=2,
        status=JobState.SUCCEEDED,
        model="ft:tiny:acme::1",
        against="tiny",
        file="file-1",
        rows=30,
        score={"type": "exact"},
        gate={},
        measures=measures_of([row.model for row in rows]).model_dump(),
        against_measures=measures_of([row.against for row in rows if row.against]).model_dump(),
        seen_rows=[],
        verdict=verdict.model_dump(mode="json"),
        error=None,
        metadata=None,
        phase=None,
        progress=JobProgress(step=None, total_steps=None, eta_seconds=None),
        waiting_reason=None,
        cancel_requested=False,
        attempts=1,
    ).model_copy(update=changes)
    shown = [EvaluatedRowObject(id="1", **json.loads(rows[0].model_dump_json()))]
    return list(describe(found, shown))


def test_an_evaluation_is_told_in_numbers_a_verdict_and_its_worst_rows() -> None:
    text = "\n".join(described())
    assert "loss               2.0000 ->    1.5000   -0.5000 (-0.5000 to -0.5000)  better" in text
    assert "answers right       50.0% ->    100.0%   +50.0 points" in text
    assert "verdict     better" in text
    assert "line 1      loss 1.500, against loss 2.000" in text
    assert "  expected  yes" in text
    assert all(len(line) <= 90 for line in described()[-4:])


def test_a_model_alone_has_neither_arrow_nor_verdict() -> None:
    text = "\n".join(described(against=None, against_measures=None, verdict=None))
    assert "->" not in text
    assert "verdict" not in text


def test_rows_that_a_model_has_seen_are_warned_of_above_the_numbers() -> None:
    lines = described(seen_rows=[{"text": "7 of 30 rows are in file-2, which ft:tiny was trained on."}])
    assert lines[3] == "warning     7 of 30 rows are in file-2, which ft:tiny was trained on."
