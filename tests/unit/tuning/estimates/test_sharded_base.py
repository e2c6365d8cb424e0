"""A 4-bit base shared out over several GPUs: when it is chosen, what it is said to cost, and what rules it out."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.tuning.cases import answer, data, plan, rules
from tunesmith.tuning.estimates.memory import Setup, estimate, footprint_of, quantized_bytes, total
from tunesmith.tuning.estimates.sharded_base import gathered_bytes, with_gathers
from tunesmith.tuning.models.catalogue import find_shape
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Refusal
from tunesmith.tuning.words import Method

SMALL = data(2_000)
LARGE = [("llama-3.1-405b", "8xH100", 8), ("llama-3.1-70b", "4xRTX4090", 4), ("qwen2.5-32b", "3xRTX4080", 3)]
WITHOUT_ITS_WORLD = ("gathered_layers", "weights", "slack")


def _shape(name: str = "llama-3.1-70b") -> ModelShape:
    found = find_shape(name)
    assert found is not None
    return found


def _setup(world_size: int, *, sharded: bool = True) -> Setup:
    return Setup(
        method=Method.QLORA,
        device="cuda",
        precision="bf16",
        tokens_per_micro_step=2048,
        rank=16,
        double_quantization=True,
        fused_passes=True,
        world_size=world_size,
        sharded_base=sharded,
    )


@pytest.mark.parametrize(("model", "machine", "gpus"), LARGE)
def test_a_model_too_large_for_each_gpu_is_planned_over_a_shared_base(model: str, machine: str, gpus: int) -> None:
    chosen = plan(model, machine, dataset=SMALL, method="qlora")
    assert (chosen.sharded_base, chosen.world_size, chosen.zero_stage) == (True, gpus, 0)
    assert chosen.fused_passes
    assert "sharded-base" in chosen.kernels
    said = next(reason.text for reason in chosen.reasons if reason.rule == "sharded-base")
    assert f"shared out over {gpus} GPUs" in said
    assert "No GPU has measured this yet" in said


def test_a_base_that_fits_each_gpu_is_not_shared_out() -> None:
    chosen = plan("llama-2-7b", "2xRTX4090", dataset=SMALL, method="qlora")
    assert not chosen.sharded_base
    assert "sharded-base" not in rules(chosen)


def test_a_refusal_although_the_base_is_shared_out_says_what_fills_each_gpu_and_what_others_do() -> None:
    refusal = answer("llama-3.1-70b", "2xRTX4090", dataset=SMALL, method="qlora")
    assert isinstance(refusal, Refusal)
    said = next(reason.text for reason in refusal.reasons if reason.rule == "sharded-base")
    assert "Each of the 2 GPUs holds 16.4 GiB of 4-bit layers, its share, and 3.9 GiB of embeddings, head" in said
    assert "fsdp_offload_params" in said
    assert "On 3 x RTX 4090" in refusal.reasons[-1].text


@pytest.mark.parametrize(("machine", "method"), [("1xRTX4090", "qlora"), ("2xRTX4090", "lora")])
def test_a_refusal_of_another_way_says_nothing_of_a_shared_base(machine: str, method: str) -> None:
    refusal = answer("llama-3.1-70b", machine, dataset=SMALL, method=method)
    assert isinstance(refusal, Refusal)
    assert "sharded-base" not in [reason.rule for reason in refusal.reasons]


@pytest.mark.parametrize("asked", [{"merge": True}, {"lora": {"use_dora": True}}])
def test_what_wants_the_whole_base_is_refused_with_what_to_leave_out(asked: dict[str, object]) -> None:
    refused = answer("llama-3.1-405b", "8xH100", dataset=SMALL, method="qlora", **asked)
    assert isinstance(refused, Refusal)
    name = "merge" if "merge" in asked else "use_dora"
    assert f"Without {name}, for which every GPU would need the whole base, QLoRA fits" in refused.text


def test_a_refusal_tells_that_the_weights_were_shared_out_already() -> None:
    refused = answer("llama-3.1-405b", "2xRTX4090", dataset=SMALL, method="qlora")
    assert isinstance(refused, Refusal)
    assert "QLoRA with its weights shared out over 2 GPUs needs" in refused.text


@given(world_size=st.integers(2, 64))
def test_a_device_holds_its_share_of_the_4_bit_weights_and_two_layers(world_size: int) -> None:
    shape, whole = _shape(), _setup(world_size, sharded=False)
    shared = replace(whole, sharded_base=True)
    before, after = (estimate(shape, setup, budget_bytes=0).items for setup in (whole, shared))
    four_bit = quantized_bytes(shape, whole)
    assert after["weights"] == pytest.approx(before["weights"] - four_bit * (1 - 1 / world_size), abs=2)
    assert after["gathered_layers"] == 2 * four_bit // shape.layers
    assert {name: size for name, size in after.items() if name not in WITHOUT_ITS_WORLD} == {
        name: size for name, size in before.items() if name not in WITHOUT_ITS_WORLD
    }


@given(world_size=st.integers(2, 63))
def test_one_more_gpu_never_needs_more_memory_on_each(world_size: int) -> None:
    assert total(_shape(), _setup(world_size + 1)) < total(_shape(), _setup(world_size))


@given(work=st.floats(0.01, 100), link=st.floats(1e9, 1e12))
def test_gathers_hide_behind_the_work_but_for_the_first(work: float, link: float) -> None:
    shape, setup = _shape(), _setup(2)
    moving = gathered_bytes(footprint_of(shape, setup), setup) / link
    seconds = with_gathers(work, moving_seconds=moving, layers=shape.layers)
    assert max(work, moving) < seconds <= max(work, moving) + moving / shape.layers


def test_a_micro_step_gathers_every_layer_twice_but_the_two_at_the_turn() -> None:
    shape, setup = _shape(), _setup(2)
    layer = quantized_bytes(shape, setup) / shape.layers
    assert gathered_bytes(footprint_of(shape, setup), setup) == pytest.approx(layer / 2 * (2 * shape.layers - 2), abs=1)
    whole = _setup(2, sharded=False)
    assert gathered_bytes(footprint_of(shape, whole), whole) == 0
