"""Model FLOPs utilisation: what a step needs, counted by hand."""

import pytest

from tests.unit.tuning.cases import TINY
from tunesmith.tuning.estimates.utilization import StepWork, data_sheet_flops_per_second, training_flops
from tunesmith.tuning.hardware import Gpu
from tunesmith.tuning.hardware_facts.gpus import what_if
from tunesmith.tuning.models.catalogue import find_shape
from tunesmith.tuning.values.units import GIB


def test_a_full_step_costs_six_operations_a_weight_and_token() -> None:
    work = StepWork(tokens=10, supervised_tokens=10, squared_lengths=0)
    # Two layers of q and o (64 x 64), k and v (64 x 32), and three MLP matrices (64 x 128); the head is 512 x 64.
    weights = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128) + 512 * 64
    assert training_flops(TINY, work, adapter_parameters=None) == 6 * weights * 10


def test_frozen_weights_cost_four_and_adapters_six() -> None:
    work = StepWork(tokens=10, supervised_tokens=10, squared_lengths=0)
    full = training_flops(TINY, work, adapter_parameters=None)
    assert training_flops(TINY, work, adapter_parameters=1000) == full * 4 / 6 + 6 * 1000 * 10


def test_the_head_counts_on_supervised_tokens_alone() -> None:
    some, all_of_them = (
        training_flops(TINY, StepWork(10, supervised, 0), adapter_parameters=0) for supervised in (3, 10)
    )
    assert all_of_them - some == 4 * 512 * 64 * 7


def test_attention_grows_with_the_square_of_each_sequence_not_of_the_pack() -> None:
    apart, joined = StepWork(20, 20, 2 * 10**2), StepWork(20, 20, 20**2)
    difference = [training_flops(TINY, work, adapter_parameters=None) for work in (apart, joined)]
    assert difference[1] - difference[0] == 6 * 64 * 2 * (20**2 - 2 * 10**2)


def test_a_published_run_has_its_published_utilisation() -> None:
    """Llama-3-8B, LoRA rank 16, rows of 4,096 tokens without padding: 12,473 tokens/s are 402 TFLOP/s, 40.6 %."""
    shape = find_shape("llama-3.1-8b")
    work = StepWork(tokens=4096, supervised_tokens=4096, squared_lengths=4096**2)
    parameters = shape.adapter_parameters(rank=16, targets="all-linear")
    reached = training_flops(shape, work, adapter_parameters=parameters) / 4096 * 12_473
    (h100,) = what_if("1xH100").gpus
    rate = data_sheet_flops_per_second(h100)
    assert rate == 989e12
    assert reached / rate == pytest.approx(0.406, rel=0.05)


def test_a_gpu_without_a_data_sheet_has_no_rate() -> None:
    unknown = Gpu(
        index=0, name="Prototype", memory_total_bytes=8 * GIB, memory_free_bytes=8 * GIB, compute_capability=(8, 0)
    )
    assert data_sheet_flops_per_second(unknown) is None
