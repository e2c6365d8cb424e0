"""What measurements teach: the finest kind that is known, and no odd machine, however wrong, spoils a plan."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.tuning.cases import cpu, data, plan, spec
from tunesmith.tuning.corrections import Corrections, Ratios
from tunesmith.tuning.estimates.margins import assumed_spread
from tunesmith.tuning.estimates.measured import (
    MEMORY_BOUNDS,
    SPEED_BOUNDS,
    SPEED_BOUNDS_OF_FEW,
    Measurement,
    corrections_from,
    measurement_of,
    trust_of,
)
from tunesmith.tuning.kernels import Kernels
from tunesmith.tuning.models.catalogue import find_shape
from tunesmith.tuning.plan import MemoryEstimate, Plan, TimeEstimate
from tunesmith.tuning.planner.choose import choose
from tunesmith.tuning.search.candidates import LEAST_RECOMPUTATION_FIRST
from tunesmith.tuning.words import Method

PREDICTED_BYTES, PREDICTED_SPEED, MICRO_STEP_SPEED = 1_000_000, 100.0, 120.0
ratios = st.floats(min_value=1e-3, max_value=1e3)
close_to_one = st.floats(min_value=0.95, max_value=1.05)


def run(memory: float | None = None, speed: float | None = None, **changes: Any) -> Measurement:
    """A run that took so many times the predicted memory and had so many times the predicted speed."""
    is_canary = changes.get("is_canary", False)
    values: dict[str, Any] = {
        "method": Method.LORA,
        "device": "cpu",
        "kernels": "sdpa/recompute-none/adamw/fused",
        "memory": MemoryEstimate(
            items={"weights": PREDICTED_BYTES}, total_bytes=PREDICTED_BYTES, budget_bytes=2 * PREDICTED_BYTES
        ),
        "time": TimeEstimate(
            tokens_per_second=PREDICTED_SPEED,
            seconds=1,
            seconds_low=1,
            seconds_high=1,
            micro_step_tokens_per_second=MICRO_STEP_SPEED,
        ),
        "planned_tokens_per_micro_step": 512,
        "peak_memory_bytes": None if memory is None else max(1, round(PREDICTED_BYTES * memory)),
        "tokens_per_second": None if speed is None else speed * (MICRO_STEP_SPEED if is_canary else PREDICTED_SPEED),
    }
    return Measurement(**{**values, **changes})


def learned(runs: list[Measurement], *, kernels: str = "sdpa/recompute-none/adamw/fused") -> Ratios:
    return corrections_from(runs)[Method.LORA].of(kernels)


def test_a_canary_is_held_against_a_micro_step_and_a_run_against_whole_steps() -> None:
    assert run(speed=0.5).speed_ratio == pytest.approx(0.5)
    assert run(speed=0.5, is_canary=True).speed_ratio == pytest.approx(0.5)


def test_a_whole_run_outweighs_two_canaries_and_three_canaries_outweigh_none() -> None:
    canaries = [run(1.5, 0.5, is_canary=True) for _ in range(2)]
    assert learned([*canaries, run(1.1, 0.9)]).speed == pytest.approx(0.9)
    assert learned(canaries).speed == pytest.approx(0.5)


def test_the_kernels_own_runs_are_used_and_those_of_the_method_where_it_has_none() -> None:
    here, elsewhere = "sdpa/recompute-none/adamw/fused", "sdpa/recompute-full/adamw/fused"
    runs = [run(1.2, 0.9), run(1.6, 0.5, kernels=elsewhere), run(1.6, 0.5, kernels=elsewhere)]
    assert learned(runs, kernels=here).memory == pytest.approx(1.2)
    assert learned(runs, kernels=elsewhere).memory == pytest.approx(1.6)
    unknown = learned(runs, kernels="sdpa/recompute-selective/adamw/fused")
    assert unknown.memory == pytest.approx(1.6)
    assert unknown.basis == "3 runs of this model and method"
    assert learned(runs, kernels=here).basis == f"1 run of this model and method with {here}"


def test_one_canary_is_too_little_to_set_kernels_apart() -> None:
    runs = [run(1.7, 0.3, is_canary=True), *(run(1.1, 0.9, kernels="other") for _ in range(3))]
    assert learned(runs).speed == pytest.approx(0.9)
    assert learned(runs).basis == "3 runs and 1 canary step of this model and method"


@given(st.lists(ratios, min_size=1, max_size=12), st.lists(ratios, min_size=1, max_size=12))
def test_no_measurement_moves_a_prediction_out_of_bounds(memory: list[float], speed: list[float]) -> None:
    runs = [run(more, faster) for more, faster in zip(memory, speed, strict=False)]
    found = learned(runs)
    assert found.memory is not None
    assert found.speed is not None
    assert MEMORY_BOUNDS[0] <= found.memory <= MEMORY_BOUNDS[1]
    bounds = SPEED_BOUNDS if len(runs) >= 3 else SPEED_BOUNDS_OF_FEW
    assert bounds[0] <= found.speed <= bounds[1]


@given(st.lists(close_to_one, min_size=4, max_size=4), ratios, ratios, st.permutations(range(5)))
def test_two_odd_runs_of_five_change_no_prediction_by_more_than_the_good_ones_differ(
    good: list[float], odd: float, odder: float, order: list[int]
) -> None:
    values = [*good, odd, odder]
    found = learned([run(values[index], values[index]) for index in order])
    assert found.speed is not None
    assert min(good) * (1 - 1e-9) <= found.speed <= max(good) * (1 + 1e-9)
    assert found.memory is not None
    assert found.memory <= max(*good, 1.0) + 1e-5  # bytes are whole


@given(st.lists(ratios, min_size=1, max_size=5), st.integers(min_value=0, max_value=20))
def test_canaries_and_runs_that_disagree_never_lower_the_memory(memory: list[float], canaries: int) -> None:
    runs = [run(value) for value in memory] + [run(0.5, is_canary=True) for _ in range(canaries)]
    found = learned(runs).memory
    assert found is not None
    if found < 1:
        newest = memory[:5]
        assert len(newest) >= 3
        assert max(newest) <= 1.15 * min(newest) * 1.01
        assert found >= min(max(newest), 1.0) * 0.999 or found == MEMORY_BOUNDS[0]


def test_three_runs_that_agree_lower_it_to_the_highest_of_them() -> None:
    assert learned([run(0.80), run(0.82), run(0.79)]).memory == pytest.approx(0.82)
    assert learned([run(0.80), run(0.82)]).memory == 1


def test_of_two_runs_the_surprising_one_has_no_say() -> None:
    assert learned([run(1.0, 0.05), run(1.0, 0.9)]).speed == pytest.approx(0.9)


@given(ratios, st.booleans())
def test_one_run_on_a_busy_host_moves_a_promise_by_half_at_most(speed: float, is_canary: bool) -> None:
    found = learned([run(1.0, speed, is_canary=is_canary)]).speed
    assert found is not None
    assert 2 / 3 <= found <= 3 / 2


def test_two_runs_that_agree_are_believed_and_two_that_do_not_are_not() -> None:
    assert learned([run(1.0, 0.30), run(1.0, 0.33)]).speed == pytest.approx(0.33)
    assert learned([run(1.0, 0.15), run(1.0, 0.5)]).speed == pytest.approx(2 / 3)


def test_a_range_is_wider_where_runs_disagree_and_narrower_where_many_agree() -> None:
    one, many = learned([run(1.0, 0.9)]), learned([run(1.0, 0.9) for _ in range(5)])
    torn = learned([run(1.0, 0.9), run(1.0, 0.2), run(1.0, 0.9), run(1.0, 0.3), run(1.0, 1.0)])
    assert many.speed_spread is not None
    assert one.speed_spread is not None
    assert torn.speed_spread is not None
    assert many.speed_spread < one.speed_spread < torn.speed_spread


def test_a_method_without_runs_borrows_from_its_sibling_until_it_has_its_own() -> None:
    lora = [run(0.9, 0.8), run(0.9, 0.8), run(0.9, 0.8)]
    found = corrections_from(lora)
    assert found[Method.QLORA].speed == found[Method.LORA].speed == pytest.approx(0.8)
    assert found[Method.QLORA].memory == 1, "that LoRA needs less promises nothing for QLoRA"
    assert found[Method.QLORA].basis == "3 runs of this model with lora"
    both = corrections_from([*lora, run(1.0, 0.7, method=Method.QLORA)])
    assert both[Method.QLORA].speed == pytest.approx(0.7)
    assert both[Method.FULL].speed == pytest.approx(0.8)


def test_the_margin_comes_from_the_spread_once_three_peaks_were_measured() -> None:
    few = corrections_from([run(1.02, 1.0), run(1.02, 1.0)])[Method.QLORA]
    assert few.memory_spread is None
    close = corrections_from([run(1.02, 1.0) for _ in range(5)])[Method.LORA].memory_spread
    apart = corrections_from([run(ratio, 1.0) for ratio in (1.0, 1.3, 0.9, 1.1, 1.2)])[Method.LORA].memory_spread
    assert close is not None
    assert apart is not None
    assert close < assumed_spread(Method.LORA) < apart


def test_a_wider_spread_holds_more_back() -> None:
    def margin(spread: float | None) -> float:
        decision = choose(
            spec=spec(method="lora"),
            shape=find_shape("smollm2-135m"),
            dataset=data(500, tokens_per_row=100, longest=200),
            hardware=cpu(),
            corrections=Corrections(memory_spread=spread),
        )
        assert isinstance(decision, Plan)
        return decision.memory.margin_bytes / decision.memory.total_bytes

    assert margin(0.01) == pytest.approx(0.02, rel=1e-3)
    assert margin(None) == pytest.approx(0.05, rel=1e-3)
    assert margin(0.1) == pytest.approx(0.2, rel=1e-3)


def test_a_run_that_had_to_recompute_more_needed_more_than_was_free() -> None:
    assert run(0.5, activation_checkpointing="none").memory_ratio == pytest.approx(0.5)
    assert run(0.5, activation_checkpointing="full").memory_ratio == pytest.approx(2.0)


def labels() -> list[str]:
    attention = plan("smollm2-135m", cpu()).attention
    return [
        Kernels(attention, activation_checkpointing=mode, optimizer="adamw", fused_passes=True).label
        for mode in LEAST_RECOMPUTATION_FIRST
    ]


@given(st.lists(st.tuples(st.floats(0.6, 1.8), st.floats(0.05, 10)), min_size=4, max_size=4))
@settings(max_examples=25, deadline=None)
def test_whatever_was_learned_by_kernels_the_chosen_plan_fits_and_says_so(found: list[tuple[float, float]]) -> None:
    by_kernels = {label: Ratios(memory, speed, "1 run") for label, (memory, speed) in zip(labels(), found, strict=True)}
    decision = choose(
        spec=spec(),
        shape=find_shape("smollm2-135m"),
        dataset=data(500, tokens_per_row=100, longest=200),
        hardware=cpu(free_gib=3),
        corrections=Corrections(by_kernels=by_kernels),
    )
    assert isinstance(decision, Plan)
    assert decision.memory.total_bytes <= decision.memory.budget_bytes
    assert sum(decision.memory.items.values()) == decision.memory.total_bytes
    if decision.method is Method.LORA:
        assert decision.time.measured_correction == by_kernels[decision.kernels].speed
        assert "1 run" in decision.reasons[-1].text


def test_a_stored_plan_has_the_label_that_the_planner_looks_up() -> None:
    chosen = plan("smollm2-135m", cpu())
    stored = measurement_of(chosen.model_dump(mode="json"), {"peak_memory_bytes": 1})
    assert stored.kernels == chosen.kernels == f"{chosen.attention}/recompute-none/adamw/fused"


@given(st.floats(0, 1), st.floats(0, 1))
def test_what_a_speed_counts_lies_between_nothing_and_one_and_falls_with_the_load(one: float, other: float) -> None:
    assert trust_of(None) == trust_of(0) == 1
    assert trust_of(0.5) == 0.25
    assert 0 <= trust_of(one) <= 1
    assert trust_of(max(one, other)) <= trust_of(min(one, other))


@given(ratios, st.booleans())
def test_one_run_beside_others_that_used_nine_tenths_moves_a_promise_by_half_a_per_cent(
    speed: float, is_canary: bool
) -> None:
    found = learned([run(1.0, speed, is_canary=is_canary, others_share=0.9)]).speed
    assert found == pytest.approx(1, abs=0.005)


@given(st.lists(st.floats(0.05, 10), min_size=1, max_size=5), ratios, st.floats(0.7, 1), st.integers(0, 5))
def test_beside_runs_on_an_idle_machine_one_on_a_busy_host_changes_nothing(
    quiet: list[float], odd: float, load: float, place: int
) -> None:
    runs = [run(1.0, speed, others_share=0.0) for speed in quiet]
    runs.insert(place, run(1.0, odd, others_share=load))
    assert learned(runs).speed == learned([each for each in runs if each.others_share == 0]).speed


@given(st.lists(close_to_one, min_size=3, max_size=5), ratios, st.floats(0.5, 1))
def test_beside_runs_that_agree_one_at_half_load_moves_nothing_beyond_them(
    good: list[float], odd: float, load: float
) -> None:
    found = learned([run(1.0, odd, others_share=load), *(run(1.0, speed, others_share=0.02) for speed in good)]).speed
    assert found is not None
    assert min(good) * (1 - 1e-9) <= found <= max(good) * (1 + 1e-9)


def test_a_busy_week_hides_nothing_that_was_known() -> None:
    busy = [run(1.0, 0.2, others_share=0.9) for _ in range(12)]
    assert learned([*busy, *(run(1.0, 0.7, others_share=0.0) for _ in range(3))]).speed == pytest.approx(0.7)


def test_a_disturbed_run_with_kernels_of_its_own_takes_the_speed_of_the_others() -> None:
    elsewhere = "sdpa/recompute-full/adamw/fused"
    runs = [run(1.2, 0.2, others_share=0.9), *(run(1.1, 0.8, kernels=elsewhere, others_share=0.0) for _ in range(3))]
    assert learned(runs).speed == pytest.approx(0.8)
    assert learned(runs).memory == pytest.approx(1.2), "what others compute changes no peak"


def test_two_quiet_runs_that_agree_are_believed_beside_a_disturbed_one_that_does_not() -> None:
    assert learned([run(1.0, 0.1, others_share=0.5), run(1.0, 0.30), run(1.0, 0.33)]).speed == pytest.approx(0.3)


def test_a_plan_says_which_measurements_it_discounted() -> None:
    runs = [run(1.0, 0.5, others_share=0.62), run(1.0, 0.9, others_share=0.03)]
    assert learned(runs).basis.endswith(", 1 of them discounted because others used 62% of the machine meanwhile")
    assert "discounted" not in learned(runs[1:]).basis


def test_a_stored_share_without_sense_is_none() -> None:
    stored = plan("smollm2-135m", cpu()).model_dump(mode="json")
    assert measurement_of(stored, {"others_share": 0.4}).others_share == 0.4
    assert [measurement_of(stored, {"others_share": odd}).others_share for odd in (7, -1, "0.4", True)] == [None] * 4
