"""Memory: equal to what the trainer saves, built from published formulas, and monotonous."""

import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.tuning.estimates.activations import Graph, bytes_per_token
from tunesmith.tuning.estimates.memory import Setup, estimate, total, weight_bytes
from tunesmith.tuning.models.catalogue import CONFIGS, find_shape
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.words import Method

SMALL = {"hidden_size": 256, "num_attention_heads": 8, "intermediate_size": 640, "vocab_size": 512}
GROUPED = {**SMALL, "num_key_value_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "mistral": GROUPED,
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 64},
    "gemma": {**GROUPED, "head_dim": 64},
    "gemma2": {**GROUPED, "head_dim": 64},
    "gemma3_text": {**GROUPED, "head_dim": 64},
    "smollm3": {**GROUPED, "pad_token_id": 0},
    "phi": {**SMALL, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    "phi3": {**GROUPED, "pad_token_id": 0},
    "gpt_neox": {**SMALL, "hidden_dropout": 0.0},
    "gpt2": {
        "n_embd": 256,
        "n_head": 8,
        "vocab_size": 512,
        "attn_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
    },
}
_SETTINGS: list[dict[str, Any]] = [
    {},
    *({"checkpointing": mode} for mode in ("selective", "mlp", "full")),
    {"targets": "attention"},
    {"targets": ("down_proj",)},
    {"dropout": 0.1, "device": "cpu", "tokens": 64},
    {"precision": "fp32"},
    {"precision": "fp32", "method": "full"},
    *({"checkpointing": mode, "method": "full"} for mode in ("selective", "mlp")),
    {"segments": 4},
    {"rank": 64},
    {"precision": "fp32", "device": "cpu"},
    {"device": "cpu"},
    {"device": "cpu", "method": "full"},
]
VARIANTS = [{**setting, "fused": fused} for fused in (False, True) for setting in _SETTINGS]
OF_OUR_PASSES: list[dict[str, Any]] = [
    {"dora": True, "device": "cpu", "tokens": 64},
    {"dora": True, "dropout": 0.1, "device": "cpu", "tokens": 64},
    *({"checkpointing": mode, "dropout": 0.1, "device": "cpu", "tokens": 64} for mode in ("selective", "mlp")),
]


def _measured_and_predicted(config: dict[str, Any], **options: Any) -> tuple[float, float]:
    from tunesmith.worker.train.profiling.counting import Case, layer_bytes

    case = Case(config, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers and peft about their own settings
        measured = layer_bytes(case, layers=3) / case.tokens
    depth = "n_layer" if config["model_type"] == "gpt2" else "num_hidden_layers"
    shape = ModelShape.from_config({**config, depth: 1})
    graph = Graph(
        full=case.method == "full",
        width=4 if case.precision == "fp32" else 2,
        rank=case.rank,
        targets=case.targets,
        dropout=case.dropout,
        dora=case.dora,
        device="cpu" if case.device == "cpu" else "cuda",
        fused=case.fused,
    )
    return measured, bytes_per_token(shape, graph)[case.checkpointing].by_layers


@pytest.mark.mostly_slow(rows=8)
@pytest.mark.torch
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_saved_activations_of_every_family_are_within_one_per_cent(family: str, method: str, fused: bool) -> None:
    config = {"model_type": family, **FAMILIES[family]}
    measured, predicted = _measured_and_predicted(config, method=method, tokens=512, fused=fused)
    assert predicted == pytest.approx(measured, rel=0.01)


@pytest.mark.mostly_slow(rows=8)
@pytest.mark.torch
@pytest.mark.parametrize("checkpointing", ["selective", "mlp"])
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_selective_recomputation_keeps_in_every_family_what_the_formula_says(
    family: str, method: str, checkpointing: Any
) -> None:
    config = {"model_type": family, **FAMILIES[family]}
    measured, predicted = _measured_and_predicted(config, method=method, tokens=512, checkpointing=checkpointing)
    assert predicted == pytest.approx(measured, rel=0.01)


@pytest.mark.mostly_slow(rows=9)
@pytest.mark.torch
@pytest.mark.parametrize("variant", [*VARIANTS, *OF_OUR_PASSES], ids=str)
def test_saved_activations_follow_every_setting(variant: dict[str, Any]) -> None:
    measured, predicted = _measured_and_predicted({"model_type": "llama", **GROUPED}, **variant)
    assert predicted == pytest.approx(measured, rel=0.01)


@pytest.mark.torch
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("model", ["llama-3.1-8b", "mistral-7b", "qwen2.5-7b", "qwen3-8b"])
def test_saved_activations_of_real_sizes_are_within_one_per_cent(model: str, method: str) -> None:
    config = {name: value for name, value in CONFIGS[model].items() if value is not None}
    measured, predicted = _measured_and_predicted(config, method=method, tokens=2048)
    assert predicted == pytest.approx(measured, rel=0.01)


def _setup(method: Method, **changes: Any) -> Setup:
    fields: dict[str, Any] = {
        "method": method,
        "device": "cuda",
        "precision": "bf16",
        "tokens_per_micro_step": 2048,
        "rank": 16,
        "double_quantization": True,
    }
    return Setup(**(fields | changes))


def test_items_add_up_to_the_total() -> None:
    shape = find_shape("llama-3.1-8b")
    for method in Method:
        predicted = estimate(shape, _setup(method), budget_bytes=0)
        assert sum(predicted.items.values()) == predicted.total_bytes == total(shape, _setup(method))


def test_four_bit_weights_take_4127_thousandths_of_a_bit() -> None:
    shape = find_shape("llama-3.1-8b")
    assert weight_bytes(shape, _setup(Method.QLORA)) == pytest.approx(5.70e9, rel=0.002)
    assert weight_bytes(shape, _setup(Method.QLORA, double_quantization=False)) == pytest.approx(6.03e9, rel=0.002)
    assert weight_bytes(shape, _setup(Method.LORA)) == 2 * shape.parameters


def test_full_training_keeps_18_bytes_a_parameter_and_12_with_8_bit_moments() -> None:
    shape = find_shape("llama-2-7b")
    for optimizer, expected in (("adamw", 18), ("adamw_8bit", 12)):
        items = estimate(shape, _setup(Method.FULL, optimizer=optimizer), budget_bytes=0).items
        assert items["weights"] + items["gradients"] + items["optimizer"] == expected * shape.parameters


def test_an_adapter_keeps_16_bytes_a_parameter() -> None:
    shape = find_shape("llama-2-7b")
    items = estimate(shape, _setup(Method.LORA), budget_bytes=0).items
    adapter = shape.adapter_parameters(rank=16, targets="all-linear")
    assert items["gradients"] + items["adapters_and_optimizer"] == 16 * adapter


@pytest.mark.parametrize(("stage", "bytes_per_parameter"), [(1, 2 + 6 + 1.5), (2, 2 + 16 / 8), (3, 18 / 8)])
def test_sharding_divides_as_deepspeed_says(stage: Any, bytes_per_parameter: float) -> None:
    shape = find_shape("llama-2-7b")
    items = estimate(shape, _setup(Method.FULL, zero_stage=stage, world_size=8), budget_bytes=0).items
    kept = items["weights"] + items["gradients"] + items["optimizer"]
    assert kept == pytest.approx(bytes_per_parameter * shape.parameters, rel=1e-6)


def test_without_a_fused_kernel_the_scores_are_counted() -> None:
    shape = find_shape("llama-3.1-8b")
    unfused = _setup(Method.LORA, fused_attention=False, longest_row_tokens=2048)
    assert total(shape, unfused) - total(shape, _setup(Method.LORA)) > 2048 * 2048 * shape.heads * shape.layers * 4


SIZES = st.tuples(
    st.sampled_from(list(Method)),
    st.sampled_from(["none", "selective", "mlp", "full"]),
    st.integers(1, 64).map(lambda number: number * 256),
    st.sampled_from([1, 2, 4, 8, 16, 64, 128]),
    st.sampled_from(["bf16", "fp32"]),
)


@given(sizes=SIZES, more=st.integers(1, 100_000), layers=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_more_tokens_rank_or_layers_never_need_less(sizes: Any, more: int, layers: int) -> None:
    method, checkpointing, tokens, rank, precision = sizes
    config = {**CONFIGS["llama-3.2-1b"], "num_hidden_layers": layers}
    shape = ModelShape.from_config(config)
    deeper = ModelShape.from_config({**config, "num_hidden_layers": layers + 1})
    fields = {"checkpointing": checkpointing, "tokens_per_micro_step": tokens, "rank": rank, "precision": precision}
    base = total(shape, _setup(method, **fields))
    assert base <= total(shape, _setup(method, **{**fields, "tokens_per_micro_step": tokens + more}))
    assert base <= total(shape, _setup(method, **{**fields, "rank": rank + more}))
    assert base <= total(deeper, _setup(method, **fields))


@given(world=st.integers(2, 64), stage=st.sampled_from([1, 2, 3]))
@settings(max_examples=30, deadline=None)
def test_more_gpus_and_higher_stages_never_need_more_state(world: int, stage: int) -> None:
    shape = find_shape("llama-3.1-8b")

    def state(world_size: int, zero_stage: Any) -> int:
        setup = _setup(Method.FULL, world_size=world_size, zero_stage=zero_stage)
        items = estimate(shape, setup, budget_bytes=0).items
        return items["weights"] + items["gradients"] + items["optimizer"]

    assert state(world + 1, stage) <= state(world, stage)
    assert state(world, 3) <= state(world, 2) <= state(world, 1) <= state(1, 0)
