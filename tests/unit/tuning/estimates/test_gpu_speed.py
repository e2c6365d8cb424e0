"""What a micro-step on a GPU costs: each part by its own rate, and only what cannot hide is added."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.tuning.estimates.gpu_speed import gpu_micro_step, gpu_work
from tunesmith.tuning.estimates.memory import Setup, footprint_of
from tunesmith.tuning.estimates.throughput import operations_of
from tunesmith.tuning.hardware_facts.gpu_table import KNOWN_GPUS
from tunesmith.tuning.hardware_facts.gpus import find_gpu
from tunesmith.tuning.models.catalogue import find_shape
from tunesmith.tuning.words import Method

SHAPE = find_shape("llama-3.1-8b")
BASE = Setup(
    method=Method.LORA, device="cuda", precision="bf16", tokens_per_micro_step=4096, rank=16, fused_passes=True
)


def seconds(setup: Setup, *, gpu: str = "H100", tokens: float = 4096, attended: float = 1024) -> float:
    operations = operations_of(SHAPE, setup, supervised_share=0.5, attended_tokens=attended)
    work = gpu_work(SHAPE, setup, gpu=find_gpu(gpu), operations=operations)
    step = gpu_micro_step(work, footprint_of(SHAPE, setup), setup, gpu=find_gpu(gpu), sequences=1)
    return step.seconds(tokens)


CASES: dict[str, Any] = {
    "gpu": st.sampled_from([gpu.name for gpu in KNOWN_GPUS]),
    "method": st.sampled_from(list(Method)),
    "checkpointing": st.sampled_from(["none", "selective", "mlp", "full"]),
    "tokens": st.integers(1, 65_536),
}


@given(**CASES, more=st.integers(1, 10_000))
@settings(max_examples=200, deadline=None)
def test_more_tokens_take_longer_but_never_longer_apiece(
    gpu: str, method: Method, checkpointing: Any, tokens: int, more: int
) -> None:
    setup = replace(BASE, method=method, checkpointing=checkpointing)
    few, many = (seconds(setup, gpu=gpu, tokens=size) for size in (tokens, tokens + more))
    assert few <= many
    assert many / (tokens + more) <= few / tokens


@given(**CASES)
@settings(max_examples=100, deadline=None)
def test_making_more_again_never_takes_less_time(gpu: str, method: Method, checkpointing: Any, tokens: int) -> None:
    setup = replace(BASE, method=method, checkpointing=checkpointing)
    assert seconds(replace(setup, checkpointing="none"), gpu=gpu, tokens=tokens) <= seconds(
        setup, gpu=gpu, tokens=tokens
    )


@pytest.mark.parametrize(
    ("gpu", "measured_tflops"), [("T4", 42), ("L4", 57), ("A10", 55), ("V100", 92), ("A40", 122), ("A6000", 123)]
)
def test_a_card_whose_power_allows_less_is_not_promised_the_rate_of_its_data_sheet(
    gpu: str, measured_tflops: float
) -> None:
    operations = operations_of(SHAPE, BASE, supervised_share=0.5, attended_tokens=1024)
    work = gpu_work(SHAPE, BASE, gpu=find_gpu(gpu), operations=operations)
    assert 0.8e12 * measured_tflops < work.product_rate <= 1e12 * measured_tflops


def test_four_bit_weights_cost_time_and_cost_less_of_it_in_large_micro_steps() -> None:
    ratios = [
        seconds(replace(BASE, method=Method.QLORA), tokens=tokens) / seconds(BASE, tokens=tokens)
        for tokens in (1024, 4096, 16384)
    ]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] > 1


def test_long_rows_are_slower_than_one_rate_for_products_and_attention_would_say() -> None:
    short, long = (seconds(BASE, tokens=65_536, attended=attended) for attended in (1024, 32_768))
    assert long > 2 * short


def test_gathering_hides_behind_arithmetic_where_there_is_enough_of_it() -> None:
    shared = replace(BASE, zero_stage=3, world_size=8, fused_passes=False)
    whole = replace(BASE, fused_passes=False)
    costs = [seconds(shared, tokens=tokens) - seconds(whole, tokens=tokens) for tokens in (1024, 65_536)]
    assert costs[1] < costs[0] / 10
    assert costs[1] > 0, "nothing hides the gather of the first layer"


def test_gathering_over_pci_express_costs_more_than_over_nvlink() -> None:
    shared = replace(BASE, zero_stage=3, world_size=8, fused_passes=False)
    assert seconds(shared, gpu="A100 PCIe 80GB") > 1.5 * seconds(shared, gpu="A100 80GB")
