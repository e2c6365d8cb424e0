"""The search of launch settings: nothing that fits is better in every way, and a larger machine is never slower."""

from itertools import product
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.planner.fuzz import Fuzz, report
from tests.unit.tuning.cases import answer, cpu, data, plan, rules, spec
from tunesmith.tuning.corrections import Corrections
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.hardware_facts.gpus import what_if
from tunesmith.tuning.models.catalogue import find_shape
from tunesmith.tuning.plan import Plan, Refusal
from tunesmith.tuning.search.candidates import LEAST_RECOMPUTATION_FIRST, Search
from tunesmith.tuning.search.pricing import Priced, Pricer, Recipe
from tunesmith.tuning.values.units import GIB
from tunesmith.tuning.words import Goal, Method

ONE_EPOCH: dict[str, Any] = {"hyperparameters": {"n_epochs": 1}}
MODELS = st.sampled_from(["llama-3.2-1b", "llama-3.1-8b", "llama-2-13b", "mixtral-8x7b"])
DATA = st.builds(
    lambda rows, tokens, longest, validation: data(rows, tokens_per_row=tokens, longest=longest).model_copy(
        update={"validation_rows": validation}
    ),
    st.integers(1, 300_000),
    st.integers(20, 2_000),
    st.integers(64, 16_384),
    st.sampled_from([0, 1, 200, 20_000]),
)
FREE_GIB = st.lists(st.floats(4, 80), min_size=1, max_size=5)


def machine(free_gib: list[float], *, name: str = "A100-80G") -> HardwareProfile:
    whole = what_if(f"{len(free_gib)}x{name}")
    gpus = tuple(
        gpu.model_copy(update={"memory_free_bytes": min(gpu.memory_total_bytes, int(free * GIB))})
        for gpu, free in zip(whole.gpus, free_gib, strict=True)
    )
    return whole.model_copy(update={"gpus": gpus})


def search(method: Method, model: str, dataset: Any, hardware: HardwareProfile, goal: str = "balanced") -> Search:
    recipe = Recipe(spec(goal=goal), find_shape(model), dataset)
    pricer = Pricer(method, recipe, corrections=Corrections())
    return Search(pricer, hardware)


def all_with_margin(found: Search) -> list[Priced]:
    """Every setting that keeps its margin, priced one by one."""
    priced = [
        found.pricer.price(layout, mode, size)
        for layout, mode in product(found.layouts, LEAST_RECOMPUTATION_FIRST)
        for size in found.sizes(layout)
    ]
    return [each for each in priced if each.peak_bytes <= each.layout.budget_bytes * found.usable]


@given(method=st.sampled_from(Method), model=MODELS, dataset=DATA, free_gib=FREE_GIB, goal=st.sampled_from(Goal))
@example(  # a third GPU takes no row from the other two
    method=Method.QLORA,
    model="llama-3.2-1b",
    dataset=data(134, tokens_per_row=80, longest=64),
    free_gib=[4.0, 4.0, 4.0],
    goal=Goal.BALANCED,
)
@settings(max_examples=40, deadline=None)
def test_no_setting_is_better_in_time_cost_and_peak_at_once(
    method: Method, model: str, dataset: Any, free_gib: list[float], goal: Goal
) -> None:
    found = search(method, model, dataset, machine(free_gib), goal)
    chosen = found.chosen()
    if not chosen.has_margin:
        return
    seconds, peak = chosen.expense(Goal.SPEED) * (1 + 1e-9), chosen.memory.total_bytes
    cost = chosen.expense(Goal.COST) * (1 + 1e-9)
    exact_moments = chosen.setup.optimizer == "adamw"
    whole_copies = method is not Method.FULL and not chosen.setup.sharded_base and chosen.setup.zero_stage < 3
    for other in all_with_margin(found):
        if exact_moments and other.setup.optimizer != "adamw":
            continue  # rounded moments are no better for being small
        if whole_copies and other.layout.gathers_weights:
            continue  # parts of a base that would fit whole are no better for being small
        times = (other.working_seconds, other.working_gpu_seconds)
        as_good = times[0] <= seconds and times[1] <= cost and other.peak_bytes <= peak
        better = times[0] < seconds * (1 - 2e-9) or times[1] < cost * (1 - 2e-9) or other.peak_bytes < peak
        assert not (as_good and better), other


@given(method=st.sampled_from(Method), model=MODELS, dataset=DATA, free_gib=FREE_GIB)
@settings(max_examples=40, deadline=None)
def test_the_bounds_that_end_the_search_early_are_some(
    method: Method, model: str, dataset: Any, free_gib: list[float]
) -> None:
    found = search(method, model, dataset, machine(free_gib))
    for priced in all_with_margin(found):
        assert found.pricer.floor_seconds(priced.layout) <= priced.working_seconds
        assert found.pricer.floor_seconds(priced.layout) <= priced.working_seconds
        bound = found.pricer.least_seconds(priced.layout, tokens=found.sizes(priced.layout)[0])
        assert bound <= priced.working_seconds * (1 + 1e-9)


def test_a_slice_of_random_plans_keeps_every_promise() -> None:
    fuzz = Fuzz(seed=7)
    fuzz.run(350)
    assert not fuzz.violations, report(fuzz)


@pytest.mark.parametrize(
    ("model", "machine", "method"),
    [("gemma-2-9b", "2xRTX3090", Method.LORA), ("mistral-7b", "2xT4", Method.QLORA)],
)
def test_a_base_that_fits_whole_is_not_shared_out_for_a_tenth_of_the_time(
    model: str, machine: str, method: Method
) -> None:
    found = search(method, model, many_rows(), what_if(machine))
    chosen, quickest = found.chosen(), found.quickest
    assert quickest is not None
    assert quickest.layout.gathers_weights
    assert not chosen.setup.sharded_base
    assert chosen.setup.zero_stage == 0
    assert quickest.working_seconds < chosen.time.working_seconds < 1.1 * quickest.working_seconds
    in_a_hurry = search(method, model, many_rows(), what_if(machine), goal="speed")
    assert in_a_hurry.quickest is not None
    assert in_a_hurry.chosen().setup == in_a_hurry.quickest.setup


def test_a_base_that_fits_whole_is_shared_out_where_that_saves_much() -> None:
    chosen = search(Method.QLORA, "llama-2-70b", many_rows(), what_if("4xL40S")).chosen()
    assert chosen.setup.sharded_base


def many_rows() -> Any:
    return data(8_000, tokens_per_row=500, longest=2000)


def test_rows_that_are_raised_for_the_model_do_not_depend_on_how_many_gpus_there_are() -> None:
    """Seven rows, and a model that five small GPUs hold: with a sixth the steps must not become uneven."""
    few = data(7, tokens_per_row=130, longest=642)
    laptop = what_if("RTX5070 Laptop").gpus[0]
    plans = []
    for number in (5, 6, 7):
        gpus = tuple(laptop.model_copy(update={"index": index}) for index in range(number))
        together = what_if("T4").model_copy(update={"gpus": gpus})
        plans.append(plan("deepseek-r1-0528-qwen3-8b", together, dataset=few, lora={"rank": 64}))
    assert {each.rows_per_step for each in plans} == {7}
    times = [each.time.working_seconds for each in plans]
    assert times == sorted(times, reverse=True)


def test_eight_large_gpus_do_not_recompute_what_stage_two_makes_room_for() -> None:
    chosen = plan("llama-3.1-8b", "8xA100-80G", dataset=data(1_000_000, tokens_per_row=500, longest=2000))
    assert (chosen.method, chosen.zero_stage, chosen.activation_checkpointing) == (Method.FULL, 2, "none")
    assert chosen.memory.total_bytes < 70 * GIB
    assert chosen.time.seconds < 7 * 3600


def test_settings_that_give_no_sample_answers_are_not_preferred_for_it() -> None:
    """Whole weights fit on each GPU; sharing them out saves the seconds of answers and nothing else."""
    held_out = {"validation_rows": 200, "held_out_rows": 200}
    rows = data(1_800, tokens_per_row=500, longest=2_000).model_copy(update=held_out)
    chosen = plan("llama-3.1-8b", "5xA100-80G", dataset=rows, **ONE_EPOCH)
    assert (chosen.method, chosen.zero_stage, chosen.world_size) == (Method.LORA, 0, 5)
    many = data(60_000, tokens_per_row=500, longest=2_000).model_copy(update=held_out)
    everything = plan("llama-3.1-8b", "8xA100-80G", dataset=many)
    assert (everything.method, everything.zero_stage) == (Method.FULL, 2)


def test_of_few_rows_a_step_has_as_many_as_the_gpus_that_hold_the_model_together() -> None:
    chosen = plan("llama-3.1-70b", "4xRTX4090", dataset=data(10, tokens_per_row=200, longest=400))
    assert chosen.sharded_base
    assert chosen.world_size <= chosen.rows_per_step <= 4
    assert "raised from 2, because fewer GPUs do not hold the model" in str(chosen.reasons)
    usual = plan("llama-3.1-8b", "4xRTX4090", dataset=data(10, tokens_per_row=200, longest=400))
    assert usual.rows_per_step == 2
    asked = {"hyperparameters": {"batch_size": 1}}
    assert isinstance(answer("llama-3.1-70b", "4xRTX4090", dataset=data(10, longest=400), **asked), Refusal)


def test_no_more_gpus_than_rows_a_step() -> None:
    for rows in (1, 10, 80):
        chosen = plan("llama-3.1-8b", "8xH100", dataset=data(rows))
        assert chosen.world_size <= chosen.rows_per_step


def test_exact_moments_are_kept_where_rounded_ones_save_little_time() -> None:
    assert plan("llama-3.2-1b", "1xA100-80G", method="full").optimizer == "adamw"
    assert plan("llama-2-7b", "1xH200:90G", method="full", dataset=data(longest=500)).optimizer == "adamw_8bit"


def test_weights_that_must_be_shared_out_over_pci_express_give_way_to_4_bit_ones() -> None:
    chosen = plan("llama-2-13b", "2xRTX4090", dataset=data(8_000, tokens_per_row=500, longest=2000))
    assert chosen.method is Method.QLORA
    assert rules(chosen)[0] == "shared-out-weights"
    lora = next(other for other in chosen.alternatives if other.method is Method.LORA)
    assert lora.fits
    assert "over 2 GPUs" in lora.rejected_because


def test_few_tokens_in_many_rows_need_no_full_fine_tuning() -> None:
    rows = data(60_000, tokens_per_row=30, longest=60, supervised=2 / 30)
    for model in ("llama-3.2-1b", "llama-3.1-8b"):
        chosen = plan(model, "8xA100-80G", dataset=rows)
        assert chosen.method is Method.LORA
        assert rules(chosen)[0] == "information"


def test_more_tokens_than_the_largest_adapter_holds_make_everything_learn() -> None:
    rows = data(9_000, tokens_per_row=30_000, longest=32_000)
    chosen = plan("llama-3.2-1b", "8xH100", dataset=rows)
    assert chosen.method is Method.FULL
    assert "135M tokens to learn from are more than an adapter of rank 128" in chosen.reasons[0].text


def test_each_rejected_method_names_the_rule_that_rejected_it() -> None:
    chosen = plan("llama-3.2-1b", "1xA100-80G", dataset=data(9_000))
    why = {other.method: other.rejected_because for other in chosen.alternatives}
    assert "4-bit weights are rounded" in why[Method.QLORA]
    assert "rows" not in why[Method.QLORA]
    assert "fewer than 10,000" in why[Method.FULL]
    assert "4-bit" not in why[Method.FULL]


def test_goal_cost_takes_no_fewer_gpus_than_end_within_a_year() -> None:
    """Four of them would take the least GPU time, and 1.3 years."""
    rows, epochs = data(2_500_000, tokens_per_row=1_000, longest=2_000), {"n_epochs": 50}
    chosen = plan("llama-3.1-8b", "8xL4", dataset=rows, goal="cost", method="lora", hyperparameters=epochs)
    assert chosen.world_size > 4
    assert chosen.time.seconds < 365 * 86_400


def test_a_plan_of_years_is_a_refusal() -> None:
    refused = answer("llama-3.1-8b", cpu(2), dataset=data(1_000_000))
    assert isinstance(refused, Refusal)
    assert "would take" in refused.text
    assert "years" in refused.text
    assert "a faster machine" in refused.reasons[-1].text


def smallest_peak_bytes(method: Method) -> int:
    refused = answer("llama-3.1-8b", machine([5], name="RTX3080"))
    assert isinstance(refused, Refusal)
    return next(other.peak_bytes for other in refused.alternatives if other.method is method)


@pytest.mark.parametrize(("share", "fits", "fits_when_asked"), [(0.96, True, True), (0.98, False, True)])
def test_no_plan_fills_the_last_of_the_memory_unless_its_method_was_asked_for(
    share: float, fits: bool, fits_when_asked: bool
) -> None:
    tight = machine([smallest_peak_bytes(Method.QLORA) / share / GIB], name="RTX3080")
    assert isinstance(answer("llama-3.1-8b", tight), Plan) is fits
    assert isinstance(answer("llama-3.1-8b", tight, method="qlora"), Plan) is fits_when_asked


def test_a_plan_without_its_margin_says_how_likely_it_is_to_fail() -> None:
    tight = machine([smallest_peak_bytes(Method.QLORA) * 1.04 / GIB], name="RTX3080")
    chosen = plan("llama-3.1-8b", tight)
    assert chosen.memory.out_of_memory_probability is not None
    assert 0.1 < chosen.memory.out_of_memory_probability < 0.5
    assert "without the margin of 10%" in chosen.reasons[-1].text


@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen2.5-32b"])
def test_the_three_ways_are_the_ends_of_what_fits(model: str) -> None:
    chosen = plan(model, "4xL40S", dataset=data(5_000))
    ways = chosen.ways
    assert ways is not None
    assert ways.quickest.seconds <= ways.cheapest.seconds
    assert ways.cheapest.device_seconds <= ways.quickest.device_seconds
    assert (
        ways.safest.out_of_memory_probability
        <= min(ways.quickest.out_of_memory_probability, ways.cheapest.out_of_memory_probability) + 0.001
    )


def test_what_a_larger_machine_would_change_is_said() -> None:
    changes = {change.machine: change for change in plan("llama-3.1-8b", "1xRTX3080").changes}
    assert "One more RTX 3080" in changes["one-more-gpu"].text
    assert changes["one-more-gpu"].way.world_size == 2
    assert "LoRA" in changes["ten-gib-more"].text


@pytest.mark.parametrize(
    ("model", "asked", "named"),
    [
        ("llama-3.1-8b", {"method": "full", "dataset": data(20_000)}, {"gpus", "zero", "optimizer"}),
        ("llama-3.1-70b", {"method": "lora"}, {"gpus", "zero"}),
        ("llama-3.2-1b", {"goal": "cost"}, {"gpus"}),
    ],
)
def test_every_launch_number_has_its_reason(model: str, asked: dict[str, Any], named: set[str]) -> None:
    said = rules(plan(model, "8xA100-80G", **asked))
    assert named | {"recomputation", "micro-step"} <= set(said)
    assert len(said) == len(set(said))


def test_one_row_and_one_epoch_are_singular() -> None:
    one = plan("llama-3.2-1b", "1xH100", dataset=data(1), hyperparameters={"n_epochs": 1, "batch_size": 1})
    text = " ".join(reason.text for reason in one.reasons)
    assert "1 epoch as asked" in text
    assert "1 row per step as asked" in text


def test_a_mixture_of_experts_says_that_its_experts_do_not_learn() -> None:
    told = plan("mixtral-8x7b", "2xB200").reasons
    assert [reason.rule for reason in told].index("experts") < 3, "among the reasons that are shown first"
    assert sum("every matrix of a dense model" in reason.text for reason in told) == 1
    assert "experts" not in " ".join(reason.text for reason in plan("llama-3.1-8b", "1xH100").reasons)
