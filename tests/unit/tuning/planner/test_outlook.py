"""What is told beside a plan and in a refusal, read as someone in a hurry reads it."""

import re
from typing import Any

import pytest

from tests.unit.tuning.cases import TINY, answer, cpu, data, plan, rules, spec
from tunesmith.tuning.hardware_facts.gpus import what_if
from tunesmith.tuning.models.catalogue import find_shape
from tunesmith.tuning.plan import Plan, Refusal
from tunesmith.tuning.planner.choose import choose
from tunesmith.tuning.values.units import against, duration, instead_of, span
from tunesmith.tuning.words import Method


@pytest.mark.parametrize("machine", ["1xRTX4090", "2xA100-80G", "8xH100"])
@pytest.mark.parametrize("method", ["auto", "full"])
def test_a_plan_without_its_outlook_is_the_same_but_for_that(machine: str, method: str) -> None:
    question: dict[str, Any] = {
        "spec": spec(method=method),
        "shape": find_shape("llama-3.1-8b"),
        "dataset": data(),
        "hardware": what_if(machine),
    }
    whole, plain = choose(**question), choose(**question, with_outlook=False)
    if isinstance(whole, Refusal):
        assert plain == whole
        return
    assert whole.ways is not None
    assert whole.changes
    assert plain == whole.model_copy(update={"ways": None, "changes": ()})


def test_for_goal_cost_a_larger_machine_is_compared_by_the_time_of_all_devices() -> None:
    facts = data(20_000, tokens_per_row=500, longest=2_000)
    changes = plan("llama-3.1-8b", "4xL4", dataset=facts, goal="cost").changes
    roomier = next(change for change in changes if change.machine == "ten-gib-more")
    assert roomier.text.endswith(" of all devices together.")
    quick = plan("llama-3.1-8b", "4xL4", dataset=facts, goal="speed").changes
    assert not any("of all devices" in change.text for change in quick)


@pytest.mark.parametrize(("seconds", "told"), [(9_360, "2.6 h instead of 3.0 h"), (10_850, "as long, 3.0 h")])
def test_two_durations_that_read_the_same_are_said_to_be_as_long(seconds: float, told: str) -> None:
    assert instead_of(seconds, 10_800) == told


def test_a_refusal_begins_with_the_method_that_misses_least() -> None:
    refusal = answer("llama-3.1-70b", "1xRTX4090")
    assert isinstance(refusal, Refusal)
    assert refusal.reasons[0].text.startswith("QLoRA needs")
    assert refusal.reasons[2].text.startswith("Full fine-tuning needs")


def test_of_two_gpus_both_are_said_to_be_used() -> None:
    chosen = plan("llama-3.1-8b", "2xA100-80G")
    gpus = next(reason.text for reason in chosen.reasons if reason.rule == "gpus")
    assert gpus.startswith("Both GPUs; one alone would take ")


@pytest.mark.parametrize(("machine", "shared"), [("1xRTX4090", False), ("2xRTX4090", True)])
def test_a_refused_mixture_of_experts_is_told_why_4_bits_save_little(machine: str, shared: bool) -> None:
    refusal = answer("mixtral-8x7b", machine, method="qlora")
    assert isinstance(refusal, Refusal)
    said = {reason.rule: reason.text for reason in refusal.reasons}
    assert said["experts"].startswith("4 bits do not reach the experts, 97% of all parameters")
    assert ("GiB of experts, embeddings" in said.get("sharded-base", "")) is shared


def said(chosen: Plan | Refusal, rule: str) -> str:
    return next(reason.text for reason in chosen.reasons if reason.rule == rule)


def rejected(chosen: Plan, method: Method) -> str:
    return next(other.rejected_because for other in chosen.alternatives if other.method is method)


@pytest.mark.parametrize(
    ("low", "high", "told"), [(1320, 3160, "22 - 53 min"), (78 * 60, 11_160, "78 min - 3.1 h"), (12, 24, "12 - 24 s")]
)
def test_a_range_names_a_unit_once_where_both_ends_have_it(low: float, high: float, told: str) -> None:
    assert span(low, high) == told


def test_two_methods_that_read_as_quick_are_not_told_apart_by_equal_numbers() -> None:
    chosen = plan("smollm2-135m", cpu())
    time = duration(chosen.time.seconds)
    assert f"the same {time} as QLoRA" in said(chosen, "bf16-before-4-bit")
    assert f"the same {time}" in rejected(chosen, Method.QLORA)
    assert against(10_800, 10_440) == "3.0 h against 2.9 h"


def test_on_a_cpu_nothing_speaks_of_gpus_or_of_free_memory_that_is_left_to_others() -> None:
    chosen = plan("smollm2-135m", cpu())
    texts = " ".join(reason.text for reason in chosen.reasons)
    assert "GPU" not in texts
    assert "16.2 GiB to be used on a CPU, where a tenth of the free memory is left to others" in texts
    assert "GFLOP/s on each core, which processors with AVX-512 reach and others do not" in texts
    assert chosen.changes[0].text.startswith("10 GiB more memory ")


def test_an_optimizer_in_host_memory_is_told_with_both_durations() -> None:
    chosen = plan("llama-3.1-8b", "1xH100", goal="quality", dataset=data(6_000))
    assert "host memory, which takes" in rejected(chosen, Method.FULL)
    assert f"instead of {duration(chosen.time.seconds)}." in rejected(chosen, Method.FULL)


@pytest.mark.parametrize("machine", ["1xRTX4070Laptop", "8xH100", "1xGH200"])
def test_a_machine_that_is_full_is_not_offered_one_more_gpu(machine: str) -> None:
    assert [change.machine for change in plan("llama-3.2-3b", machine).changes] == ["ten-gib-more"]


def test_more_memory_that_makes_a_plan_slower_says_that_another_method_would_be_taken() -> None:
    changes = plan("qwen2.5-14b", "1xRTX3090", dataset=data(9_800, tokens_per_row=500, longest=2_000)).changes
    assert "10 GiB more memory: LoRA would be taken, though it needs " in changes[-1].text


def test_sample_answers_that_are_not_given_are_not_counted() -> None:
    assert "sample answers" not in said(plan("llama-3.3-70b", "4xRTX4090", dataset=data(1_000)), "prediction")


def test_one_held_out_row_is_singular_and_few_are_called_a_rough_guide() -> None:
    few = data(9).model_copy(update={"held_out_rows": 1, "validation_rows": 1})
    assert "1 of 10 rows is held out" in said(plan("llama-3.2-1b", "1xT4", dataset=few), "validation")
    assert "the loss on so few is a rough guide" in said(plan("llama-3.2-1b", "1xT4", dataset=few), "validation")


def test_preference_pairs_are_said_to_be_complex_whatever_their_length() -> None:
    chosen = plan("llama-3.2-1b", "1xA100-80G", objective="dpo", dataset=data(24, tokens_per_row=50, longest=60))
    assert "under 1K rows of preference pairs, a complex task" in said(chosen, "rank")


def test_a_plan_without_a_margin_says_so_of_each_number_that_follows_from_it() -> None:
    chosen = plan("llama-3.1-8b", "2xRTX4090", dataset=data(20_000, longest=2_000), method="full")
    assert "no setting keeps its margin" in said(chosen, "recomputation")
    assert "no setting keeps its margin" in said(chosen, "micro-step")
    assert "with a margin" not in said(chosen, "gpus")


def test_of_more_gpus_than_a_machine_holds_those_of_one_are_named_before_they_are_counted() -> None:
    chosen = plan("llama-3.1-8b", "12xL4", dataset=data(100_000))
    assert rules(chosen).index("devices") < rules(chosen).index("gpus")
    assert said(chosen, "gpus").startswith("All 8 of these GPUs")


def test_a_mixture_that_4_bits_hardly_shrink_says_why_qlora_needs_as_much() -> None:
    chosen = plan("mixtral-8x7b", "2xA100-80G")
    assert rejected(chosen, Method.QLORA).endswith("4 bits do not reach the experts.")


def test_a_shortage_on_several_gpus_is_said_to_be_of_each() -> None:
    refusal = answer("llama-3.1-70b", "8xH100", dataset=data(60_000), method="full")
    assert "on each of 8 GPUs even with the smallest settings; 79.1 GiB are free" in refusal.reasons[0].text


def test_a_refused_method_is_told_which_other_one_fits_here() -> None:
    refusal = answer("llama-3.1-8b", "1xRTX4090", method="full")
    assert isinstance(refusal, Refusal)
    assert refusal.reasons[1].text.startswith("With method lora instead it fits here: ")
    assert not any("instead it fits" in reason.text for reason in answer("llama-3.1-70b", "1xT4").reasons)


def test_a_refusal_on_a_host_without_gpus_asks_for_a_host() -> None:
    assert "would fit on a host with" in answer("llama-3.1-8b", cpu(), method="full").reasons[-1].text


def test_shorter_rows_are_said_to_cut_longer_ones() -> None:
    refusal = answer("llama-3.1-8b", "1xRTX4090", dataset=data(longest=131_072))
    assert refusal.reasons[-1].text.endswith("Longer rows are cut.")


def test_a_need_that_reads_as_what_is_free_is_told_with_more_decimals() -> None:
    machine = what_if("CPU:1G")
    refusal = answer("smollm2-135m", machine, dataset=data(100, tokens_per_row=500, longest=2_000), method="qlora")
    assert isinstance(refusal, Refusal)
    needed, free = re.findall(r"([\d.]+) GiB", refusal.reasons[0].text)
    assert float(needed) > float(free)
    assert round(float(needed), 1) == round(float(free), 1)


def test_a_single_token_fits() -> None:
    facts = data(5_000, supervised=1e-9)
    assert said(plan("llama-3.1-8b", "8xA100-80G", dataset=facts), "information").startswith(
        "1 token to learn from fits"
    )


def test_tokens_are_told_in_the_unit_of_the_parameters_beside_them() -> None:
    told = said(plan("llama-3.1-8b", "8xH100", dataset=data(7_800, tokens_per_row=500, longest=2_000)), "information")
    assert told.startswith("1.95M tokens to learn from fit into an adapter of rank 1 already (2.62M parameters)")


def test_a_refusal_of_long_rows_says_that_activations_fill_the_memory() -> None:
    refusal = answer("llama-3.1-70b", "8xH100", dataset=data(longest=131_072))
    assert "of it with activations although every layer is recomputed" in said(refusal, "sequence-length")
    assert "sharded-base" not in rules(refusal)


@pytest.mark.parametrize(
    ("model", "machine", "rows", "asked", "gained"),
    [
        ("command-r7b", "4xL40S", data(1_000, tokens_per_row=8, longest=80), {"method": "full"}, "with a margin"),
        (
            "command-r-35b",
            "8xA800-80GB",
            data(8_000, tokens_per_row=500, longest=500, supervised=0.1),
            {},
            "with a whole",
        ),
        ("gemma-3-12b-text", "CPU", data(5_000, tokens_per_row=30, longest=300), {"method": "full"}, "with moments of"),
    ],
)
def test_a_larger_machine_that_takes_longer_has_a_reason(
    model: str, machine: str, rows: Any, asked: dict[str, Any], gained: str
) -> None:
    told = [change.text for change in plan(model, machine, dataset=rows, **asked).changes]
    assert any(gained in text and "would be taken, though it needs" in text for text in told), told


def test_one_gpu_that_would_be_quicker_is_told_with_what_it_would_lose() -> None:
    rows, steps = data(1_000, tokens_per_row=500, longest=500), {"batch_size": 3}
    chosen = plan("qwen3-4b-2507", "2xH100", dataset=rows, method="full", hyperparameters=steps)
    assert "one alone with moments of 8 bits would take" in said(chosen, "gpus")


def test_memory_that_4_bits_hardly_save_is_not_told() -> None:
    assert "would save" not in rejected(plan(TINY, cpu()), Method.QLORA)
    assert "would save" in rejected(plan("llama-3.1-8b", "1xH100"), Method.QLORA)


def test_a_token_a_row_is_one() -> None:
    for supervised, told in ((1 / 400, "(1 token a row"), (1e-9, "(less than 1 token a row")):
        assert told in said(plan("llama-3.2-1b", "T4", dataset=data(50, supervised=supervised)), "rank")


def test_what_is_whole_on_each_gpu_is_said_to_want_one_gpu() -> None:
    """LoRA in fp16 is not shared out: more GPUs like these give it no room."""
    refusal = answer("llama-2-13b", "4xT4", dataset=data(longest=100, tokens_per_row=80), method="lora")
    assert "LoRA fp16 would fit on a GPU with" in refusal.reasons[-1].text


def test_a_refusal_names_what_keeps_the_base_whole_where_it_would_fit_in_parts() -> None:
    refusal = answer("mixtral-8x7b", "8xH100", lora={"target_modules": "all-linear+experts"})
    assert refusal.reasons[-1].text.startswith("Without adapters on experts, for which every GPU would need the whole")
    refusal = answer("llama-3.1-70b", "8xH100", method="lora", lora={"init": "pissa"}, merge=True)
    assert refusal.reasons[-1].text.startswith("Without merge and init pissa, ")


def test_a_refusal_offers_a_smaller_adapter_before_it_offers_to_cut_rows() -> None:
    rows = data(30_000, tokens_per_row=500, longest=2_000)
    refusal = answer("llama-3.1-8b", "1xRTX4090:9G", dataset=rows)
    told = re.fullmatch(r"With rank (\d+) in place of 64 QLoRA fits: .* of 9.0 GiB.", refusal.reasons[-1].text)
    assert told is not None
    assert isinstance(answer("llama-3.1-8b", "1xRTX4090:9G", dataset=rows, lora={"rank": int(told[1])}), Plan)
    asked = answer("llama-3.1-8b", "1xRTX4090:9G", dataset=rows, lora={"rank": 64})
    assert not asked.reasons[-1].text.startswith("With rank ")


def test_a_gpu_without_8_bit_products_is_told_to_leave_float8_out() -> None:
    refusal = answer("llama-3.1-8b", "A100", lora={"float8_base": True})
    assert refusal.reasons[-1].text.startswith("Without float8_base LoRA bf16 fits: ")
    nowhere = answer("llama-3.1-405b", "A100", lora={"float8_base": True})
    assert nowhere.reasons[-1].text == "Leave float8_base out."


@pytest.mark.parametrize(
    ("machine", "asked", "why"),
    [
        ("8xV100-32G", {}, "weights in fp16 are not shared out here"),
        ("8xL40S", {"lora": {"use_dora": True}}, "the base stays whole for use_dora"),
        ("8xL40S", {"merge": True, "lora": {"init": "pissa"}}, "the base stays whole for merge and init pissa"),
    ],
)
def test_what_several_gpus_do_not_share_out_has_its_reason(machine: str, asked: dict[str, Any], why: str) -> None:
    refusal = answer("llama-3.1-70b", machine, method="lora", **asked)
    assert f" on each GPU even with the smallest settings, because {why}; " in refusal.reasons[0].text
    alone = answer("llama-3.1-70b", machine.replace("8x", "1x"), method="lora", **asked)
    assert "because" not in alone.reasons[0].text


def test_a_family_that_overflows_fp16_is_warned_of_where_there_is_nothing_else() -> None:
    chosen = plan("gemma-3-4b", "8xT4")
    assert rules(chosen).index("precision") < 3
    assert "gemma3_text is known to overflow" in said(chosen, "precision")
    assert "precision" not in rules(plan("gemma-3-4b", "L4"))
    assert "precision" not in rules(plan("llama-3.1-8b", "8xT4"))


def test_pissa_is_never_planned_over_a_4_bit_base_which_the_trainer_refuses() -> None:
    pissa = {"lora": {"init": "pissa"}}
    assert plan("llama-3.1-8b", "1xRTX4090", goal="speed", **pissa).method is Method.LORA
    asked = answer("llama-3.1-8b", "1xRTX4090", method="qlora", **pissa)
    assert asked.reasons[0].text == "PiSSA takes components out of the base weights, which 4-bit ones do not allow."
    assert asked.reasons[-1].text.startswith("Without init pissa QLoRA fits: ")
    small = answer("llama-3.1-8b", "1xRTX3060", **pissa)
    assert small.reasons[-1].text.startswith("Without init pissa QLoRA fits: ")


def test_a_base_that_is_shared_out_is_said_to_be_that_once() -> None:
    refusal = answer("llama-3.1-405b", "8xA100-40G")
    assert refusal.reasons[-1].text.startswith("QLoRA, its weights shared out, would fit on 8 GPUs, each with ")


def test_adapters_for_experts_are_not_offered_without_what_they_take() -> None:
    """Of a base that is shared out: the advice is for GPUs that hold it whole."""
    assert "with the whole base on each GPU" in said(plan("qwen3-235b-a22b", "8xB200"), "experts")


COUNTS = (0,) * 5 + (900,) + (0,) * 12 + (100,)  # 900 rows of 193 to 256 tokens, 100 of 16,385 to 24,576
LONG = {
    "dataset": data(1_000, tokens_per_row=2_300, longest=23_000).model_copy(update={"row_length_counts": COUNTS}),
}


def test_rows_that_are_cut_are_counted_as_they_are_trained_on() -> None:
    """Rank, duration and the choice of the method go by what is left of them."""
    whole, cut = plan("llama-3.1-8b", "1xH100", **LONG), plan("llama-3.1-8b", "1xH100", **LONG, max_seq_length=1024)
    assert cut.time.training_seconds < 0.3 * whole.time.training_seconds
    assert "which takes 86% of all tokens away" in said(cut, "sequence-length")
    assert said(cut, "tokens").startswith("311K tokens")
    assert "takes" not in said(whole, "sequence-length")


def test_a_length_that_a_row_may_not_have_is_told_with_the_longest() -> None:
    chosen = plan("llama-3.1-8b", "1xH100", **LONG, max_seq_length=1024, on_long_row="refuse")
    assert said(chosen, "sequence-length").endswith(": a longer row ends the job, and the longest has 23,000.")


def test_a_micro_step_of_one_long_row_is_not_said_to_be_a_whole_step() -> None:
    chosen = plan("llama-3.1-8b", "1xH100", dataset=data(2_000, tokens_per_row=100_000, longest=110_000))
    assert chosen.rows_per_step > 1
    assert said(chosen, "micro-step").endswith("the longest row has as many, and more would be hardly quicker.")


def test_a_refusal_on_several_machines_says_that_a_run_stays_within_one() -> None:
    refusal = answer("llama-3.1-70b", "16xH100", dataset=data(60_000), method="full")
    assert said(refusal, "devices") == "16 GPUs are 2 machines, and a run stays within one: 8 x H100."
    assert said(plan("llama-3.1-8b", "1024xH100"), "devices").startswith("1,024 GPUs are 128 machines")


def test_a_peak_that_reads_as_what_a_margin_leaves_is_called_a_little_more() -> None:
    chosen = plan("llama-3.1-8b", "H100 1g.10gb", dataset=data(1_800, tokens_per_row=500, longest=2_000))
    assert "4,096 would need 9.0 GiB, a little more than the 9.0 GiB" in said(chosen, "micro-step")
