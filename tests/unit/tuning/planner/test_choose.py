"""The choice: what is picked on which machine, by which rule, and what is said about the rest."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.tuning.cases import TINY, answer, cpu, data, plan, rules, spec
from tunesmith.tuning.corrections import Corrections
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.hardware_facts.gpus import what_if
from tunesmith.tuning.models.catalogue import find_shape
from tunesmith.tuning.plan import Plan, Refusal
from tunesmith.tuning.planner.choose import choose
from tunesmith.tuning.values.units import GIB
from tunesmith.tuning.words import Method

LARGE, SMALL, MEDIUM = data(200_000), data(2_000), data(20_000)

# The guide's decision table. Where the planner answers otherwise, the last column says why.
DECISIONS: list[tuple[str, str, str, dict[str, Any], Method, str]] = [
    ("one A100: LoRA", "llama-2-7b", "1xA100-80G", {"dataset": MEDIUM}, Method.LORA, ""),
    ("one H100, quality: full", "llama-3.2-3b", "1xH100", {"dataset": MEDIUM, "goal": "quality"}, Method.FULL, ""),
    ("several GPUs: full", "llama-2-7b", "8xA100-80G", {"dataset": MEDIUM}, Method.FULL, ""),
    ("small data: LoRA", "llama-2-7b", "8xA100-80G", {"dataset": SMALL}, Method.LORA, ""),
    ("large data: full", "llama-2-7b", "8xA100-80G", {"dataset": LARGE}, Method.FULL, ""),
    (
        "over 13B on one card: QLoRA",
        "llama-2-70b",
        "1xA6000",
        {"dataset": SMALL, "lora": {"rank": 16}},
        Method.QLORA,
        "",
    ),
    ("consumer 16 GB, 13B: QLoRA", "llama-2-13b", "1xRTX4080", {"dataset": SMALL}, Method.QLORA, ""),
    ("consumer 10 GB, 7B: QLoRA", "llama-2-7b", "1xRTX3080", {"dataset": SMALL}, Method.QLORA, ""),
    (
        "consumer 24 GB: QLoRA",
        "llama-2-7b",
        "1xRTX4090",
        {"dataset": SMALL},
        Method.LORA,
        "16-bit LoRA fits beside a 7B model and is not slower, so 4-bit weights would buy nothing",
    ),
    (
        "quick experiment: QLoRA",
        "llama-2-7b",
        "1xA100-80G",
        {"dataset": SMALL, "goal": "speed"},
        Method.LORA,
        "dequantising makes QLoRA slower than LoRA wherever both fit",
    ),
]


@pytest.mark.parametrize(
    ("row", "model", "machine", "asked", "method", "difference"), DECISIONS, ids=lambda v: str(v)[:40]
)
def test_the_guides_decisions_hold_or_differ_for_a_known_reason(
    row: str, model: str, machine: str, asked: dict[str, Any], method: Method, difference: str
) -> None:
    assert plan(model, machine, **asked).method is method, difference or row


def test_a_small_model_on_a_small_cpu_gets_a_sensible_plan() -> None:
    chosen = plan("smollm2-135m", cpu(), dataset=data(250, tokens_per_row=100, longest=300))
    assert (chosen.method, chosen.device, chosen.precision) == (Method.LORA, "cpu", "bf16")
    assert rules(chosen)[0] == "information"
    assert 300 <= chosen.tokens_per_micro_step <= 2048
    assert 60 < chosen.time.seconds < 1800
    assert chosen.memory.total_bytes < 4 * GIB


def test_a_cpu_without_bf16_computes_in_fp32() -> None:
    assert plan("smollm2-135m", cpu(bf16=False)).precision == "fp32"


def test_a_toy_model_plans_to_seconds() -> None:
    chosen = plan(TINY, cpu(), dataset=data(20, tokens_per_row=40, longest=60))
    assert chosen.time.seconds < 30
    assert chosen.total_steps <= 100


def test_qlora_runs_on_a_cpu_only_when_asked_for() -> None:
    assert plan("smollm2-135m", cpu()).method is Method.LORA
    forced = plan("smollm2-135m", cpu(), method="qlora")
    assert forced.quantization == "nf4"
    assert forced.double_quantization


def test_four_bit_says_what_16_bit_would_have_needed() -> None:
    text = plan("llama-3.1-8b", "1xRTX3080").reasons[0].text
    assert "LoRA bf16 needs 1" in text
    assert "GiB; 9.8 GiB are free on this RTX 3080, so QLoRA" in text


def test_every_rejected_method_is_listed_with_its_number() -> None:
    for machine in ("1xRTX3080", "1xA10G", "8xA100-80G"):
        chosen = plan("llama-3.1-8b", machine)
        assert {other.method for other in chosen.alternatives} == set(Method) - {chosen.method}
        assert all("GiB" in other.rejected_because for other in chosen.alternatives)


def test_a_forced_method_is_respected() -> None:
    for method in Method:
        chosen = plan("llama-3.2-1b", "1xA100-80G", method=method)
        assert chosen.method is method
        assert rules(chosen)[0] == "forced-method"


def test_a_forced_method_that_does_not_fit_is_refused_with_the_number() -> None:
    refusal = answer("llama-3.1-8b", "1xRTX3080", method="lora")
    assert isinstance(refusal, Refusal)
    assert "9.8 GiB are free on this RTX 3080" in refusal.text
    assert any(other.fits for other in refusal.alternatives), "it says that QLoRA would fit"


def test_a_refusal_offers_the_longest_rows_that_fit() -> None:
    rows = data(longest=131_072)
    refusal = answer("llama-3.1-8b", "1xRTX4090", dataset=rows)
    assert isinstance(refusal, Refusal)
    way_out = refusal.reasons[-1]
    assert way_out.rule == "what-would-fit"
    length = int(way_out.text.split("max_seq_length ")[1].split(" ")[0].replace(",", ""))
    assert isinstance(answer("llama-3.1-8b", "1xRTX4090", dataset=rows, max_seq_length=length), Plan)


def test_a_length_that_no_row_reaches_takes_no_memory() -> None:
    """Whoever writes 32,768 by habit gets the plan of the rows that there are, on 24 GB too."""
    asked = plan("llama-3.1-8b", "1xRTX4090", max_seq_length=32_768)
    assert asked.max_sequence_length == plan("llama-3.1-8b", "1xRTX4090").max_sequence_length == 1536
    told = next(reason.text for reason in asked.reasons if reason.rule == "sequence-length")
    assert "no row needs the 32,768 that were asked for" in told


def test_a_refusal_that_shorter_rows_do_not_help_says_how_many_gpus_would() -> None:
    refusal = answer("llama-3.3-70b", "2xRTX4090", dataset=data(longest=100, tokens_per_row=80))
    assert isinstance(refusal, Refusal)
    number = int(refusal.reasons[-1].text.removeprefix("On ").split(" x RTX 4090 ")[0])
    assert number > 2
    dataset = data(longest=100, tokens_per_row=80)
    assert isinstance(answer("llama-3.3-70b", f"{number}xRTX4090", dataset=dataset), Plan)
    assert isinstance(answer("llama-3.3-70b", f"{number - 1}xRTX4090", dataset=dataset), Refusal)


def test_rows_longer_than_the_models_context_are_refused() -> None:
    refusal = answer("llama-2-7b", "8xH200", max_seq_length=8192)
    assert isinstance(refusal, Refusal)
    assert rules(refusal) == ["context-length"]


def test_unknown_target_modules_are_refused_with_the_known_ones() -> None:
    refusal = answer("llama-2-7b", "1xH100", method="lora", lora={"target_modules": ["nothing"]})
    assert isinstance(refusal, Refusal)
    assert "q_proj" in refusal.text


def test_without_bitsandbytes_there_is_no_qlora() -> None:
    machine = what_if("1xRTX3080").model_copy(update={"installed": {"torch": "2.10"}})
    refusal = answer("llama-3.1-8b", machine)
    assert isinstance(refusal, Refusal)
    assert "bitsandbytes" in refusal.text


def test_without_deepspeed_nothing_is_sharded() -> None:
    machine = what_if("8xB200").model_copy(update={"installed": {"bitsandbytes": "0.50"}})
    chosen = plan("llama-2-13b", machine, dataset=LARGE, method="full")
    assert (chosen.zero_stage, chosen.optimizer, chosen.world_size) == (0, "adamw_8bit", 1)


def test_full_on_several_gpus_shares_out_what_costs_no_time_and_weights_only_where_they_must_be() -> None:
    assert plan("llama-3.2-1b", "8xA100-80G", method="full").zero_stage == 2
    assert plan("llama-2-70b", "8xB200", method="full").zero_stage == 3


def test_lora_shares_out_16_bit_weights_that_one_gpu_cannot_hold() -> None:
    chosen = plan("llama-2-70b", "4xA100-80G", method="lora")
    assert (chosen.zero_stage, chosen.world_size) == (3, 4)


def test_the_optimizer_moves_to_host_memory_only_as_a_last_resort() -> None:
    forced = plan("llama-3.2-3b", "1xRTX4090", method="full")
    assert forced.offload_optimizer
    free = plan("llama-3.2-3b", "1xRTX4090", dataset=LARGE)
    assert free.method is Method.LORA
    assert any("host memory" in other.rejected_because for other in free.alternatives)


def test_cost_and_speed_never_cost_more_than_the_balance() -> None:
    balanced = plan("llama-3.1-8b", "8xH100")
    fast, cheap = (plan("llama-3.1-8b", "8xH100", goal=goal) for goal in ("speed", "cost"))
    assert fast.time.seconds <= balanced.time.seconds
    assert cheap.time.seconds * cheap.world_size <= balanced.time.seconds * balanced.world_size


def test_what_the_trainer_cannot_shard_is_not_planned_sharded() -> None:
    assert plan("smollm2-135m", "4xT4", method="full").zero_stage == 0
    assert plan("llama-2-70b", "4xA100-80G", method="lora").zero_stage == 3
    assert isinstance(answer("llama-2-70b", "4xA100-80G", method="lora", merge=True), Refusal)


def test_an_old_gpu_computes_in_fp16() -> None:
    assert plan("llama-3.2-1b", "1xT4").precision == "fp16"


def test_preference_pairs_keep_their_beta() -> None:
    chosen = plan("llama-3.2-1b", "1xA100-80G", objective="dpo")
    assert (chosen.objective, chosen.beta) == ("dpo", 0.1)


def test_least_recomputation_that_fits() -> None:
    assert plan("llama-3.1-8b", "1xH200").activation_checkpointing == "none"
    for longest, least in ((1200, "none"), (3000, "mlp"), (6000, "full")):
        assert plan("llama-3.1-8b", "1xRTX4090", dataset=data(longest=longest)).activation_checkpointing == least


def test_measured_ratios_move_the_prediction() -> None:
    asked: dict[str, Any] = {
        "spec": spec(),
        "shape": find_shape("llama-3.1-8b"),
        "dataset": SMALL,
        "hardware": what_if("1xH100"),
    }
    plain = choose(**asked)
    corrected = choose(**asked, corrections=Corrections(memory=1.1, speed=0.5))
    assert isinstance(plain, Plan)
    assert isinstance(corrected, Plan)
    assert corrected.time.seconds > plain.time.seconds
    assert corrected.memory.items["measured_correction"] > 0
    assert sum(corrected.memory.items.values()) == corrected.memory.total_bytes <= corrected.memory.budget_bytes


@pytest.mark.parametrize(
    "change",
    [{"memory_free_bytes": -1}, {"memory_free_bytes": 25 * GIB}, {"memory_total_bytes": 0, "memory_free_bytes": 0}],
)
def test_memory_that_no_gpu_has_is_an_error_that_names_the_field(change: dict[str, int]) -> None:
    machine = what_if("1xRTX4090")
    broken = machine.model_copy(update={"gpus": (machine.gpus[0].model_copy(update=change),)})
    with pytest.raises(InvalidRequest) as caught:
        answer("llama-3.2-1b", broken)
    assert caught.value.param == "hardware.gpus.0.memory_free_bytes"


def test_a_gpu_in_use_by_someone_else_is_planned_with_what_is_left() -> None:
    machine = what_if("1xA100-80G")
    shared = machine.gpus[0].model_copy(update={"memory_free_bytes": 12 * GIB})
    chosen = plan("llama-3.1-8b", machine.model_copy(update={"gpus": (shared,)}))
    assert chosen.method is Method.QLORA
    assert chosen.memory.total_bytes <= 12 * GIB


def test_an_empty_file_is_refused() -> None:
    nothing = data(1).model_copy(update={"supervised_tokens": 0})
    assert isinstance(answer("llama-3.2-1b", "1xH100", dataset=nothing), Refusal)


MODELS = st.sampled_from(["smollm2-135m", "llama-3.2-1b", "llama-3.1-8b", "llama-2-13b", "mixtral-8x7b", "qwen2.5-72b"])
DATA = st.builds(
    lambda rows, tokens, longest: data(rows, tokens_per_row=tokens, longest=longest),
    st.integers(1, 300_000),
    st.integers(1, 4_000),
    st.integers(16, 32_768),
)
ASKED = st.fixed_dictionaries(
    {
        "goal": st.sampled_from(["balanced", "quality", "speed", "cost"]),
        "method": st.sampled_from(["auto", "full", "lora", "qlora"]),
        "objective": st.sampled_from(["supervised", "dpo"]),
    }
)
FREE = st.lists(st.floats(0, 79), min_size=0, max_size=6)


def _machine(free_gib: list[float]) -> HardwareProfile:
    machine = what_if(f"{max(1, len(free_gib))}xA100-80G")
    gpus = tuple(
        gpu.model_copy(update={"memory_free_bytes": int(free * GIB)})
        for gpu, free in zip(machine.gpus, free_gib, strict=False)
    )
    return machine.model_copy(update={"gpus": gpus, "cpu": cpu(free_gib=8).cpu})


@given(model=MODELS, dataset=DATA, asked=ASKED, free_gib=FREE)
@settings(max_examples=50, deadline=None)
def test_a_plan_never_exceeds_its_budget_and_is_the_same_every_time(
    model: str, dataset: Any, asked: dict[str, str], free_gib: list[float]
) -> None:
    first, second = (answer(model, _machine(free_gib), dataset=dataset, **asked) for _ in range(2))
    assert first == second
    if isinstance(first, Plan):
        assert first.memory.fits
        assert first.total_steps == -(-dataset.rows // first.rows_per_step) * first.epochs
        assert first.tokens_per_micro_step >= first.max_sequence_length
        assert asked["method"] in ("auto", first.method)


@given(model=MODELS, dataset=DATA, asked=ASKED, free_gib=FREE, more=st.floats(0, 40), another=st.floats(0, 79))
@settings(max_examples=60, deadline=None)
def test_more_memory_or_gpus_never_turn_a_plan_into_a_refusal(
    model: str, dataset: Any, asked: dict[str, str], free_gib: list[float], more: float, another: float
) -> None:
    if not free_gib or isinstance(answer(model, _machine(free_gib), dataset=dataset, **asked), Refusal):
        return
    richer = [min(79.0, free + more) for free in free_gib]
    assert isinstance(answer(model, _machine(richer), dataset=dataset, **asked), Plan)
    assert isinstance(answer(model, _machine([*free_gib, another]), dataset=dataset, **asked), Plan)


@pytest.mark.parametrize(
    ("machine", "most_calls"),
    [("1xRTX3080", 25_000), ("8xA100-80G", 50_000), ("16xA100-80G", 60_000), ("1xH100", 18_000)],
)
@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen2.5-72b", "mixtral-8x7b"])
def test_a_plan_takes_few_function_calls(model: str, machine: str, most_calls: int) -> None:
    """Two and a half times what it takes now; milliseconds are what `make planner-fuzz` reports, on an idle machine."""
    shape, hardware = find_shape(model), what_if(machine)

    def plan_once() -> None:
        choose(spec=spec(), shape=shape, dataset=MEDIUM, hardware=hardware)

    plan_once()  # fills caches, of which other tests may have filled some
    assert _calls(plan_once) < most_calls


def _calls(work: Callable[[], object]) -> int:
    """How many functions are called, Python's and built-in ones: the same on every machine, however busy."""
    calls = 0

    def count(_: object, event: str, __: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls
