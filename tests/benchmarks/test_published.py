"""The planner's formulas meet published runs, also those that nothing was fitted to."""

from pathlib import Path

import pytest

from benchmarks.published.__main__ import predicted
from benchmarks.published.fit import BOUNDS, misfit
from benchmarks.published.predict import Prediction, prediction
from benchmarks.published.report import (
    mean_speed_ratio,
    median_memory_error,
    memory_errors,
    published_page,
    share_within_range,
    speed_ratios,
)
from benchmarks.published.runs import Run, Stack, book
from tunesmith.tuning.estimates.gpu_speed import GPU_SPEEDS, GpuSpeeds

PREDICTIONS = predicted(book())
HELD_OUT = [each for each in PREDICTIONS if each.run.is_held_out]
FITTED = [each for each in PREDICTIONS if not each.run.is_held_out]
PAGE = Path(__file__).parents[2] / "docs" / "published.md"


def test_every_run_is_named_once_and_has_a_source_and_a_figure() -> None:
    figures = [(each.run.name, bool(each.memory_gb), bool(each.tokens_per_second)) for each in PREDICTIONS]
    assert len(set(figures)) == len(figures)
    for run in book().runs:
        assert run.source in book().sources
        assert run.memory_gb or run.tokens_per_second


def test_a_fifth_to_a_half_of_the_runs_is_held_out() -> None:
    for found in (memory_errors, speed_ratios):
        assert 0.2 < len(found(HELD_OUT)) / len(found(PREDICTIONS)) < 0.5


@pytest.mark.parametrize("part", [PREDICTIONS, FITTED, HELD_OUT], ids=["all", "fitted", "held out"])
def test_memory_is_within_four_per_cent_in_the_median(part: list[Prediction]) -> None:
    assert len(memory_errors(part)) >= 20
    assert median_memory_error(part) < 0.04


def test_gradients_that_come_with_the_backward_pass_count_at_the_update_alone() -> None:
    """3.2B parameters in pure bf16 without recomputation: at the end of the forward pass there are none of them."""
    run = next(
        each.run for each in PREDICTIONS if each.run.name.startswith("torchtune/torchtune: llama-3.2-3b full 2x")
    )
    parameters = book().shape(run).parameters
    stack = book().stack(run)
    early = stack.model_copy(update={"gradient": 0})
    few_rows = run.model_copy(update={"rows": 1, "row_tokens": 64})
    assert _peak_gb(run, early) - _peak_gb(run, stack) == pytest.approx(2e-9 * parameters)
    assert _peak_gb(few_rows, stack) == pytest.approx(8e-9 * parameters)


def _peak_gb(run: Run, stack: Stack) -> float:
    changed = book().model_copy(update={"stacks": {**book().stacks, run.stack: stack}})
    return prediction(changed, run).memory_gb or 0.0


@pytest.mark.parametrize("part", [PREDICTIONS, HELD_OUT], ids=["all", "held out"])
def test_speed_is_right_in_the_mean_and_nine_of_ten_runs_lie_in_the_stated_range(part: list[Prediction]) -> None:
    assert len(speed_ratios(part)) >= 20
    assert 0.95 < mean_speed_ratio(part) < 1.05
    assert share_within_range(part) >= 0.9


def test_the_constants_are_those_of_the_fit() -> None:
    """A hundredth up or down of any of them gains less than a hundredth."""
    fitted = [run for run in book().runs if run.tokens_per_second and not run.is_held_out]
    now = misfit(book(), fitted, GPU_SPEEDS)
    for name, (lowest, highest) in BOUNDS.items():
        for factor in (0.97, 1.03):
            changed = {**_values(GPU_SPEEDS), name: min(highest, max(lowest, getattr(GPU_SPEEDS, name) * factor))}
            assert misfit(book(), fitted, GpuSpeeds(**changed)) > 0.98 * now, name


def _values(speeds: GpuSpeeds) -> dict[str, float]:
    return {name: getattr(speeds, name) for name in GpuSpeeds.__dataclass_fields__}


def test_the_page_in_the_docs_is_the_one_that_is_written() -> None:
    assert PAGE.read_text(encoding="utf-8") == published_page(book(), PREDICTIONS, speeds=GPU_SPEEDS)
