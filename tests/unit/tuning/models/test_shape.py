"""A model's sizes from its config.json: equal to the real classes, and clear about what is wrong."""

from typing import Any

import pytest

from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.models.catalogue import find_shape
from tunesmith.tuning.models.config_reader import as_json
from tunesmith.tuning.models.shape import ModelShape

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 300,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
FAMILIES: list[dict[str, Any]] = [
    {"model_type": "llama", **SMALL},
    {"model_type": "llama", **SMALL, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    {"model_type": "mistral", **SMALL, "head_dim": 24},
    {"model_type": "qwen2", **SMALL},
    {"model_type": "qwen3", **SMALL},
    {"model_type": "gemma", **SMALL},
    {"model_type": "gemma2", **SMALL},
    {"model_type": "gemma3_text", **SMALL},
    {"model_type": "phi", **SMALL},
    {"model_type": "phi", **SMALL, "qk_layernorm": True},
    {"model_type": "phi3", **SMALL},
    {"model_type": "gpt2", "n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 300},
    {"model_type": "gpt_neox", **SMALL},
    {"model_type": "smollm3", **SMALL, "tie_word_embeddings": True},
    {"model_type": "mixtral", **SMALL, "num_local_experts": 4},
    {"model_type": "qwen2_moe", **SMALL, **EXPERTS, "shared_expert_intermediate_size": 80},
    {"model_type": "qwen2_moe", **SMALL, **EXPERTS, "shared_expert_intermediate_size": 80, "decoder_sparse_step": 2},
    {"model_type": "qwen3_moe", **SMALL, **EXPERTS, "mlp_only_layers": [1]},
]
# As the publishers' files count them.
PUBLISHED = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "codellama-34b": 33_743_970_304,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "tinyllama-1.1b": 1_100_048_384,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-8b": 8_190_735_360,
    "qwen3-30b-a3b": 30_532_122_624,
    "gemma-2-9b": 9_241_705_984,
    "gemma-3-1b": 999_885_952,
    "phi-2": 2_779_683_840,
    "phi-3-mini": 3_821_079_552,
    "phi-4": 14_659_507_200,
    "gpt2": 124_439_808,
}


@pytest.mark.torch
@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config["model_type"])
def test_the_count_of_every_family_equals_its_model_class(config: dict[str, Any]) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    full_config = AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(full_config)
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert ModelShape.from_config(full_config.to_dict()).parameters == counted
    assert ModelShape.from_config(config).parameters == counted, "fields left to the family's defaults"


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_a_known_model_has_its_published_size(name: str, parameters: int) -> None:
    assert find_shape(name).parameters == parameters


def test_a_mixture_counts_active_and_total() -> None:
    shape = find_shape("qwen3-30b-a3b")
    assert 2.5e9 < shape.active_linear_weights < 3e9
    assert 29e9 < shape.linear_weights < shape.parameters


@pytest.mark.parametrize(
    ("model", "targets", "rank", "parameters"),
    [
        ("llama-2-7b", "attention", 16, 16_777_216),
        ("llama-2-7b", "attention", 8, 8_388_608),
        ("llama-2-7b", "attention", 64, 67_108_864),
        ("llama-3.1-8b", "attention", 16, 13_631_488),
        ("llama-3.1-8b", "all-linear", 16, 41_943_040),
        ("llama-2-7b", "all-linear", 16, 39_976_960),
    ],
)
def test_adapters_have_the_size_that_peft_gives_them(model: str, targets: Any, rank: int, parameters: int) -> None:
    assert find_shape(model).adapter_parameters(rank=rank, targets=targets) == parameters


def test_all_linear_and_attention_mlp_are_the_same_set() -> None:
    shape = find_shape("llama-2-7b")
    assert shape.targets("all-linear") == shape.targets("attention_mlp")


def test_targets_can_be_named() -> None:
    names = [linear.name for linear in find_shape("llama-2-7b").targets(("q_proj", "v_proj"))]
    assert names == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"hidden_size": None}, "config.hidden_size"),
        ({"num_hidden_layers": 0}, "config.num_hidden_layers"),
        ({"num_hidden_layers": 10**9}, "config.num_hidden_layers"),
        ({"intermediate_size": -5}, "config.intermediate_size"),
        ({"vocab_size": "many"}, "config.vocab_size"),
        ({"vocab_size": True}, "config.vocab_size"),
        ({"num_attention_heads": 5}, "config.hidden_size"),
        ({"num_key_value_heads": 3}, "config.num_attention_heads"),
        ({"tie_word_embeddings": "yes"}, "config.tie_word_embeddings"),
        ({"head_dim": 15}, "config.head_dim"),
        ({"rms_norm_eps": float("nan")}, "config.rms_norm_eps"),
        ({"rms_norm_eps": -1e-6}, "config.rms_norm_eps"),
        ({"rope_theta": 0}, "config.rope_theta"),
        ({"rope_parameters": {"rope_theta": float("nan")}}, "config.rope_parameters.rope_theta"),
        ({"rope_parameters": {"full_attention": {"rope_theta": -1}}}, "config.rope_theta"),
        ({"rope_parameters": "long"}, "config.rope_parameters"),
        ({"rope_scaling": {"factors": [1.0, float("nan")]}}, "config.rope_scaling.factors"),
        ({"pad_token_id": 10**6}, "config.pad_token_id"),
        ({"model_type": None}, "config.model_type"),
        ({"model_type": "unheard-of"}, "config.model_type"),
    ],
)
def test_a_bad_config_names_the_field(change: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ModelShape.from_config({"model_type": "llama", **SMALL} | change)
    assert caught.value.param == param
    assert caught.value.hint


def test_an_infinite_number_is_kept_in_the_notation_of_transformers() -> None:
    config = {"time_step_limit": [0.0, float("inf")], "nested": {"least": float("-inf"), "name": "x"}}
    assert as_json(config) == {
        "time_step_limit": [0.0, {"__float__": "Infinity"}],
        "nested": {"least": {"__float__": "-Infinity"}, "name": "x"},
    }
