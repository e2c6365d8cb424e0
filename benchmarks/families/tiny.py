"""A tiny configuration of any causal language model that the installed transformers has."""

from typing import Any

from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

LAYERS = 4
_HIDDEN, _HEADS, _VOCABULARY, _CONTEXT = 64, 4, 384, 512
# Sizes by the names that configurations give them.
_SIZES: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim_model", "embedding_size", "embed_dim"), _HIDDEN),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads", "num_attention_heads", "n_head"), _HEADS),
    **dict.fromkeys(("n_heads", "num_heads", "num_decoder_attention_heads", "num_encoder_attention_heads"), _HEADS),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"), LAYERS),
    **dict.fromkeys(("decoder_layers", "num_decoder_layers", "num_encoder_layers"), LAYERS),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_ff", "decoder_ffn_dim", "encoder_ffn_dim"), 128),
    **dict.fromkeys(("dff", "dim_ff", "ffn_hidden_size", "mlp_hidden_size", "d_inner", "intermediate_size_mlp"), 128),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("shared_intermediate_size", "moe_shared_expert_intermediate_size", "expert_dim"), 32),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "attn_num_key_value_heads"), 2),
    **dict.fromkeys(
        ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts"), 4
    ),
    **dict.fromkeys(("num_experts_per_token",), 2),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "experts_per_token", "top_k_experts"), 2),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "text_vocab_size"), _VOCABULARY),
    **dict.fromkeys(
        ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "n_ctx"), _CONTEXT
    ),
    **dict.fromkeys(("kv_lora_rank", "qk_nope_head_dim", "v_head_dim", "index_head_dim", "compressor_dim"), 16),
    **dict.fromkeys(("q_lora_rank", "o_lora_rank", "unpadded_vocab_size"), 32),
    **dict.fromkeys(("qk_rope_head_dim", "index_topk", "index_n_heads", "o_groups"), 8),
    **dict.fromkeys(("sliding_window_size", "sliding_window", "rel_extent", "attention_chunk_size"), 64),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "mamba_d_head", "mamba_head_dim"), 16),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "mamba_n_heads", "mamba_num_heads"), 4),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group", "n_groups_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("depth", "image_size", "spatial_patch_size"), 4),
    **dict.fromkeys(("out_hidden_size", "projection_dim"), _HIDDEN),
    "image_size": 32,
    "patch_size": 8,
    "mm_tokens_per_image": 16,
    "head_dim": 16,
    "rotary_dim": 8,
    "attention_head_dim": 16,
}
# What the sizes above leave contradictory, by model type.
_MAMBA_2: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_chunk_size": 8}
_MULTIMODAL_ROPE = {"text_config": {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}}}
_MORE: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"num_experts_per_token": 2, "num_expert_group": 1, "linear_head_dim": 16, "linear_num_heads": 4},
    "bamba": _MAMBA_2 | {"attn_layer_indices": [1, 3]},
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        }
    },
    "deepseek_v2": {"num_experts_per_tok": 2, "n_routed_experts": 4, "topk_method": "greedy"},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "falcon_h1": _MAMBA_2 | {"mamba_d_ssm": 128},
    "gpt_neo": {"attention_types": [[["global", "local"], LAYERS // 2]]},
    "granitemoehybrid": _MAMBA_2 | {"layer_types": ["linear_attention", "full_attention"] * (LAYERS // 2)},
    "kimi_linear": {"linear_head_dim": 16, "linear_num_heads": 4, "num_experts_per_token": 2, "q_lora_rank": None},
    "lfm2": {"layer_types": ["conv", "full_attention"] * (LAYERS // 2), "full_attn_idxs": [1, 3]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * (LAYERS // 2), "num_dense_layers": 1},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 2, "state_size": 16, "chunk_size": 8},
    "nemotron_h": {"mamba_num_heads": 8, "n_groups": 2, "ssm_state_size": 16, "use_mamba_kernels": False},
    "gemma3n_text": {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2)},
    "qwen2_vl": _MULTIMODAL_ROPE,
    "qwen2_5_vl": _MULTIMODAL_ROPE,
    "roc_bert": {
        "pronunciation_embed_dim": 16,
        "pronunciation_vocab_size": 32,
        "shape_embed_dim": 16,
        "shape_vocab_size": 32,
    },
    "xlm": {"emb_dim": _HIDDEN},
    "xmod": {"default_language": "en_XX"},
    "reformer": {"is_decoder": True, "axial_pos_shape": [16, 32], "axial_pos_embds_dim": [16, 48]},
    "zamba": {
        "attention_hidden_size": 2 * _HIDDEN,
        "attention_head_dim": 32,
        "num_key_value_heads": _HEADS,
        "mamba_dt_rank": 4,
        "num_hidden_layers": 6,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention"] * 2,
        "use_mamba_kernels": False,
    },
    "zamba2": {
        "attention_hidden_size": 2 * _HIDDEN,
        "attention_head_dim": 32,
        "num_key_value_heads": _HEADS,
        "mamba_headdim": 16,
        "n_mamba_heads": 8,
        "mamba_d_state": 16,
        "chunk_size": 8,
        "adapter_rank": 4,
        "kv_channels": 16,
        "num_query_groups": _HEADS,
        "num_hidden_layers": 6,
        "layers_block_type": ["linear_attention", "linear_attention", "hybrid"] * 2,
        "hybrid_layer_ids": [2, 5],
        "use_mamba_kernels": False,
    },
}


# Models that see as well and whose text part is trained: those that people tune most, and a few more.
SEEING = ("emu3", "gemma3", "idefics3", "internvl", "llava", "mistral3", "mllama", "qwen2_5_vl", "qwen2_vl", "qwen3_vl")


def model_types() -> list[str]:
    """Every model type that has a causal language model, and the ones that see."""
    return sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *SEEING})


def tiny_config(model_type: str) -> PretrainedConfig:
    """The family's default configuration with every size made small.

    Raises:
        whatever the configuration class makes of sizes that contradict each other.
    """
    default = CONFIG_MAPPING[model_type]()
    changes = _shrunk(default.to_dict())
    for key, value in _MORE.get(model_type, {}).items():
        changes[key] = changes.get(key, {}) | value if key.endswith("_config") else value
    return CONFIG_MAPPING[model_type](**changes)


def _shrunk(values: dict[str, Any]) -> dict[str, Any]:
    layers = next((values[key] for key, size in _SIZES.items() if size == LAYERS and key in values), None)
    changes: dict[str, Any] = {}
    if "qk_rope_head_dim" in values and "head_dim" in values and "index_head_dim" not in values:
        values = {key: value for key, value in values.items() if key != "head_dim"}
        changes["head_dim"] = _SIZES["qk_rope_head_dim"]  # with latent attention it is the rotated part
    for key, value in values.items():
        if key in ("head_dim", "num_key_value_heads") and value is None:
            changes[key] = _SIZES[key]
        elif key in _SIZES and isinstance(value, int) and not isinstance(value, bool):
            changes[key] = min(value, _SIZES[key]) if key not in ("head_dim", "rotary_dim") else _SIZES[key]
            if key == "num_key_value_heads" and "kv_lora_rank" in values:
                changes[key] = _HEADS  # latent attention expands to all heads
        elif isinstance(value, list) and layers is not None and len(value) == layers:
            changes[key] = _pattern(value)
        elif key.endswith("_token_id") and isinstance(value, int):
            changes[key] = min(value, 2)
        elif isinstance(value, dict) and key.endswith("_config"):
            changes[key] = _shrunk(value)
        elif "drop" in key and isinstance(value, float):
            changes[key] = 0.0
    return changes


def _pattern(value: list[Any]) -> list[Any]:
    """The first of each kind, so that every kind of layer is there, then the beginning."""
    kinds = list(dict.fromkeys(map(repr, value)))
    places = sorted({next(i for i, item in enumerate(value) if repr(item) == kind) for kind in kinds})[:LAYERS]
    places = sorted([*places, *[i for i in range(len(value)) if i not in places][: LAYERS - len(places)]])
    return [value[place] for place in places]
