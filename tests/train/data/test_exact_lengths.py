"""The trainer's exact count of tokens has the last word over a row length that was only estimated."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests import plans
from tests.tiny_model import SPECIAL_TOKENS, build_tiny_model
from tests.train import runs
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.datasets.rows import RowChecker
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Plan
from tunesmith.tuning.planner.choose import choose
from tunesmith.worker.machine.probe import probe
from tunesmith.worker.run_directory import EXIT_FAILED, RunDirectory

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
BYTES = 256 + len(SPECIAL_TOKENS)  # a vocabulary without a single merge: every byte is a token


def rows() -> list[dict[str, Any]]:
    return [*runs.chat_rows(10), {"text": "seven words that no tokenizer has merged " * 20}]


def planned(root: Path, model: Path, *, cut_long_rows: bool, **changes: Any) -> tuple[RunDirectory, Plan]:
    """A run whose row length was chosen from estimates, as the service does at submit."""
    only_text = [row if "text" in row else {"text": row["messages"][0]["content"]} for row in rows()]
    checker = RowChecker()
    for row in only_text:
        checker.feed(json.dumps(row).encode() + b"\n")
    facts = checker.finish().facts()
    config = json.loads((model / "config.json").read_text())
    chosen = choose(
        spec=runs.JobSpec(model="tiny", seed=1),
        shape=ModelShape.from_config(config),
        dataset=facts,
        hardware=probe(disk=root),
    )
    assert isinstance(chosen, Plan)
    plan = plans.plan(max_sequence_length=chosen.max_sequence_length, tokens_per_micro_step=2048, epochs=1)
    plan = plan.model_copy(update=changes)
    return runs.make_run(root, model=model, plan=plan, rows=only_text, cut_long_rows=cut_long_rows), plan


def test_rows_longer_than_estimated_are_not_cut_but_counted(tmp_path: Path) -> None:
    model = build_tiny_model(tmp_path / "model", vocabulary_size=BYTES)
    run, plan = planned(tmp_path / "a", model, cut_long_rows=False)
    assert runs.train_here(run) == EXIT_FAILED
    result = run.read_result()
    assert result is not None
    assert result.failure is not None
    assert result.failure.code == ErrorCode.ROWS_LONGER_THAN_PLANNED
    exact = run.read_dataset()
    assert exact.tokens_are_exact
    assert exact.longest_row_tokens > plan.max_sequence_length
    assert (exact.rows, sum(exact.row_length_counts)) == (11, 11)

    longer, _ = planned(tmp_path / "b", model, cut_long_rows=True, max_sequence_length=exact.longest_row_tokens)
    assert runs.train_here(longer) == 0
    assert not any("rows_truncated" in event["data"] for event in runs.events(longer))


def test_rows_that_are_as_short_as_estimated_train_at_once(tmp_path: Path) -> None:
    model = build_tiny_model(tmp_path / "model", vocabulary_size=BYTES)
    run, _ = planned(tmp_path / "a", model, cut_long_rows=False, max_sequence_length=2048)
    assert runs.train_here(run) == 0
