"""What evaluations add to a predicted duration, and that the speed of training is left as it was."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.tuning.cases import cpu, data, plan, spec
from tunesmith.tuning.corrections import Corrections
from tunesmith.tuning.datasets.held_out import with_held_out_rows
from tunesmith.tuning.estimates.evaluation_time import (
    LARGEST_SHARE,
    LONGEST_SECONDS,
    EvaluationCost,
    durations,
)
from tunesmith.tuning.estimates.measured import measurement_of
from tunesmith.tuning.job import DatasetFacts
from tunesmith.tuning.models.catalogue import find_shape
from tunesmith.tuning.plan import Plan
from tunesmith.tuning.planner.choose import choose
from tunesmith.tuning.recipe.evaluations import evaluation_count

costs = st.builds(EvaluationCost, st.floats(0, 1e5), st.floats(0, 100), st.integers(0, 41))
training_seconds = st.floats(1e-3, 1e7)
corrections = st.one_of(st.none(), st.floats(0.05, 10))


def held_out(dataset: DatasetFacts) -> DatasetFacts:
    return with_held_out_rows(dataset, spec())


def corrected(dataset: DatasetFacts, speed: float | None) -> Plan:
    decision = choose(
        spec=spec(method="lora"),
        shape=find_shape("smollm2-135m"),
        dataset=dataset,
        hardware=cpu(),
        corrections=Corrections(speed=speed),
    )
    assert isinstance(decision, Plan)
    return decision


@pytest.mark.parametrize("machine", ["1xA100-80G", "8xA100-80G", "1xRTX4090"])
def test_evaluations_are_in_the_duration_and_not_in_the_speed(machine: str) -> None:
    rows = data(500)
    without = plan("llama-3.2-1b", machine, method="lora", dataset=rows).time
    time = plan("llama-3.2-1b", machine, method="lora", dataset=rows.model_copy(update={"validation_rows": 50})).time
    assert without.evaluation_seconds == without.sample_seconds == 0
    assert time.training_seconds == pytest.approx(without.seconds, rel=0.05)
    assert time.seconds == pytest.approx(time.training_seconds + time.evaluation_seconds + time.sample_seconds)
    assert time.tokens_per_second == pytest.approx(without.tokens_per_second, rel=0.05)
    assert time.seconds_low < time.seconds < time.seconds_high


def test_seven_forward_passes_over_a_tenth_of_the_rows_are_about_a_seventh_of_three_epochs() -> None:
    time = corrected(held_out(data(1_000, tokens_per_row=200, longest=400)), None).time
    rows_forwards, rows_trained = 7 * 100 / 2, 3 * 900
    assert time.evaluation_seconds / time.training_seconds == pytest.approx(rows_forwards / rows_trained, rel=0.25)


def test_a_correction_of_speed_is_applied_once_to_steps_and_once_to_evaluations() -> None:
    dataset = held_out(data(1_000, tokens_per_row=200, longest=400))
    plain, half = corrected(dataset, None), corrected(dataset, 0.5)
    assert half.time.training_seconds == pytest.approx(2 * plain.time.training_seconds)
    assert half.time.evaluation_seconds == pytest.approx(2 * plain.time.evaluation_seconds)
    measured = {"tokens_per_second": plain.time.tokens_per_second / 2, "training_seconds": 1.0}
    for predicted in (plain, half):  # what was measured says the same of either prediction
        assert measurement_of(predicted.model_dump(mode="json"), measured).speed_ratio == pytest.approx(0.5)


def test_the_plan_says_what_evaluations_take_where_it_is_a_part_worth_a_word() -> None:
    small = corrected(held_out(data(60, tokens_per_row=100, longest=200)), None)
    assert "of which evaluations take" in small.reasons[-1].text
    assert small.time.sample_seconds > 0
    large = plan("llama-3.2-1b", "1xA100-80G", dataset=held_out(data(100_000)))
    assert "evaluations" not in large.reasons[-1].text


@given(training_seconds, costs, corrections)
def test_sample_answers_are_bounded(training: float, cost: EvaluationCost, correction: float | None) -> None:
    spent = durations(training, cost, correction=correction)
    cheap = max(0, cost.evaluations - 2)  # between the ends, of a second at most
    assert 0 <= spent.samples <= 2 * LONGEST_SECONDS + max(cheap, LARGEST_SHARE * training) + 1e-9
    assert spent.training == training


@given(training_seconds, training_seconds, costs, st.floats(0.05, 10), st.floats(0.05, 10))
def test_the_bound_holds_for_all_that_take_longer(
    one: float, other: float, cost: EvaluationCost, speed: float, slower: float
) -> None:
    quick, slow = sorted((one, other))
    bound = durations(quick, cost, correction=max(speed, slower)).working
    assert bound <= durations(slow, cost, correction=min(speed, slower)).working * (1 + 1e-9)


@given(st.integers(1, 5_000), st.integers(1, 5_000))
@settings(max_examples=200)
def test_evaluations_are_counted_as_the_loop_makes_them(total: int, interval: int) -> None:
    made = 1 + sum(step % interval == 0 or step == total for step in range(1, total + 1))
    assert evaluation_count(total, interval=interval) == made == 1 + math.ceil(total / interval)
