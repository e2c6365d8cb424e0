"""How each family of models lays out its matrices, as the model classes of `transformers` 5 build them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tunesmith.tuning.models.config_reader import ConfigReader, divisible, even
from tunesmith.tuning.models.linears import Linear

MOST_LAYERS = 1_000
# What other trainers compute in bf16 or fp32 alone (Unsloth's FORCE_FLOAT32, November 2026): activations or gradients
# leave the range of fp16. By the beginnings of their names.
OVERFLOWING_FP16 = ("gemma3", "gemma4", "glm4_moe", "gpt_oss", "qwen3_5", "qwen3_moe")
MULTIMODAL = {"gemma3": "gemma3_text"}  # the language part alone is trained


# Published configs of those that see leave out what the class has as defaults.
_GEMMA3_DEFAULTS = {
    "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
    "num_key_value_heads": 4, "vocab_size": 262_208, "max_position_embeddings": 131_072,
}  # fmt: skip


@dataclass(frozen=True)
class _Attention:
    """Sizes that every family's attention has."""

    hidden: int
    layers: int
    heads: int
    query: int
    key_value: int
    head_dim: int


def _llama(reader: ConfigReader) -> dict[str, Any]:
    bias = reader.flag("attention_bias", default=False)
    return _decoder(reader, qkv_bias=bias, output_bias=bias, mlp_bias=reader.flag("mlp_bias", default=False))


def _mistral(reader: ConfigReader) -> dict[str, Any]:
    return _decoder(reader, default_key_value_heads=8)


def _qwen2(reader: ConfigReader) -> dict[str, Any]:
    return _decoder(reader, qkv_bias=True)


def _qwen3(reader: ConfigReader) -> dict[str, Any]:
    bias = reader.flag("attention_bias", default=False)
    return _decoder(reader, qkv_bias=bias, output_bias=bias, default_head_dim=128, query_key_norm=True)


def _gemma(reader: ConfigReader) -> dict[str, Any]:
    bias = reader.flag("attention_bias", default=False)
    return _decoder(reader, qkv_bias=bias, output_bias=bias, default_head_dim=256, tied=True, norm="gemma")


def _gemma2(reader: ConfigReader) -> dict[str, Any]:
    bias = reader.flag("attention_bias", default=False)
    decoder = _decoder(
        reader, qkv_bias=bias, output_bias=bias, default_head_dim=256, tied=True, layer_norms=4, norm="gemma"
    )
    return decoder | {"score_softcap": reader.cap("attn_logit_softcapping", default=50.0)}


def _gemma3(reader: ConfigReader) -> dict[str, Any]:
    reader = reader.with_defaults(_GEMMA3_DEFAULTS)
    bias = reader.flag("attention_bias", default=False)
    return _decoder(
        reader,
        qkv_bias=bias,
        output_bias=bias,
        default_head_dim=256,
        tied=True,
        layer_norms=4,
        query_key_norm=True,
        norm="gemma",
    )


def _decoder(
    reader: ConfigReader,
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    mlp_bias: bool = False,
    default_head_dim: int | None = None,
    default_key_value_heads: int | None = None,
    tied: bool = False,
    layer_norms: int = 2,
    query_key_norm: bool = False,
    norm: str = "rms",
) -> dict[str, Any]:
    sizes = _attention(reader, default_head_dim=default_head_dim, default_key_value_heads=default_key_value_heads)
    width = reader.positive("intermediate_size")
    norms = sizes.layers * (layer_norms * sizes.hidden + (2 * sizes.head_dim if query_key_norm else 0)) + sizes.hidden
    linears = (
        *_separate_attention(sizes, qkv_bias=qkv_bias, output_bias=output_bias),
        *_gated_mlp(sizes.hidden, width, copies=sizes.layers, bias=mlp_bias),
    )
    return _common(reader, sizes, width=width, tied=tied) | {
        "linears": linears,
        "norm_parameters": norms,
        "norm": norm,
        "norm_inputs": layer_norms,
        "query_key_norm": query_key_norm,
    }


def _phi(reader: ConfigReader) -> dict[str, Any]:
    sizes = _attention(reader)
    hidden, layers, width = sizes.hidden, sizes.layers, reader.positive("intermediate_size")
    query_key_norm = reader.flag("qk_layernorm", default=False)
    linears = (
        *_separate_attention(sizes, qkv_bias=True, output_bias=True, output_name="dense"),
        Linear(name="fc1", role="mlp", in_features=hidden, out_features=width, copies=layers, bias=True),
        Linear(name="fc2", role="mlp", in_features=width, out_features=hidden, copies=layers, bias=True),
    )
    return _common(reader, sizes, width=width, tied=False) | {
        "linears": linears,
        "norm_parameters": layers * (2 * hidden + (4 * sizes.head_dim if query_key_norm else 0)) + 2 * hidden,
        "norm_inputs": 1,
        "query_key_norm": query_key_norm,
        "shared_norm_output": True,
        "norm": "layer",
        "activation_tensors": _activation_tensors(reader, "hidden_act", default="gelu_new"),
        "head_bias": True,
    }


def _phi3(reader: ConfigReader) -> dict[str, Any]:
    sizes = _attention(reader)
    hidden, layers, width = sizes.hidden, sizes.layers, reader.positive("intermediate_size")
    fused = sizes.query + 2 * sizes.key_value
    linears = (
        Linear(name="qkv_proj", role="attention", in_features=hidden, out_features=fused, copies=layers),
        Linear(name="o_proj", role="attention", in_features=sizes.query, out_features=hidden, copies=layers),
        Linear(name="gate_up_proj", role="mlp", in_features=hidden, out_features=2 * width, copies=layers),
        Linear(name="down_proj", role="mlp", in_features=width, out_features=hidden, copies=layers),
    )
    return _common(reader, sizes, width=width, tied=False) | {
        "linears": linears,
        "norm_parameters": (2 * layers + 1) * hidden,
        "fused_qkv": "rotated",
    }


def _gpt2(reader: ConfigReader) -> dict[str, Any]:
    hidden = reader.positive("n_embd", "hidden_size")
    layers = reader.positive("n_layer", "num_hidden_layers", most=MOST_LAYERS)
    heads = reader.positive("n_head", "num_attention_heads")
    width = reader.positive("n_inner", default=4 * hidden)
    context = reader.positive("n_positions", "max_position_embeddings", default=1024)
    head_dim = divisible(reader, field="n_embd", value=hidden, by_field="n_head", by=heads)
    sizes = _Attention(hidden, layers, heads, query=hidden, key_value=hidden, head_dim=head_dim)
    linears = (
        Linear(name="c_attn", role="attention", in_features=hidden, out_features=3 * hidden, copies=layers, bias=True),
        Linear(name="attn.c_proj", role="attention", in_features=hidden, out_features=hidden, copies=layers, bias=True),
        Linear(name="c_fc", role="mlp", in_features=hidden, out_features=width, copies=layers, bias=True),
        Linear(name="mlp.c_proj", role="mlp", in_features=width, out_features=hidden, copies=layers, bias=True),
    )
    return _common(reader, sizes, width=width, tied=True, context=context) | {
        "linears": linears,
        "norm_parameters": (4 * layers + 2) * hidden,
        "position_parameters": context * hidden,
        "norm": "layer",
        "fused_qkv": "split",
        "activation_tensors": _activation_tensors(reader, "activation_function", default="gelu_new"),
    }


def _gpt_neox(reader: ConfigReader) -> dict[str, Any]:
    sizes = _attention(reader)
    hidden, layers, width = sizes.hidden, sizes.layers, reader.positive("intermediate_size")
    bias = reader.flag("attention_bias", default=True)
    linears = (
        Linear(
            name="query_key_value",
            role="attention",
            in_features=hidden,
            out_features=3 * hidden,
            copies=layers,
            bias=bias,
        ),
        Linear(name="dense", role="attention", in_features=hidden, out_features=hidden, copies=layers, bias=bias),
        Linear(name="dense_h_to_4h", role="mlp", in_features=hidden, out_features=width, copies=layers, bias=True),
        Linear(name="dense_4h_to_h", role="mlp", in_features=width, out_features=hidden, copies=layers, bias=True),
    )
    return _common(reader, sizes, width=width, tied=False) | {
        "linears": linears,
        "norm_parameters": (4 * layers + 2) * hidden,
        "norm": "layer",
        "norm_inputs": 1 if reader.flag("use_parallel_residual", default=True) else 2,
        "fused_qkv": "rotated",
        "activation_tensors": _activation_tensors(reader, "hidden_act", default="gelu"),
    }


def _mixtral(reader: ConfigReader) -> dict[str, Any]:
    sizes = _attention(reader, default_key_value_heads=8)
    width = reader.positive("intermediate_size")
    experts = reader.positive("num_local_experts", "num_experts", default=8, most=100_000)
    active = reader.positive("num_experts_per_tok", default=2, most=experts)
    linears = (
        *_separate_attention(sizes),
        *_experts(sizes.hidden, width, experts=experts, active=active, layers=sizes.layers),
    )
    return _common(reader, sizes, width=active * width, tied=False) | {
        "linears": linears,
        "norm_parameters": (2 * sizes.layers + 1) * sizes.hidden,
    }


def _qwen2_moe(reader: ConfigReader) -> dict[str, Any]:
    return _qwen_moe(reader, qkv_bias=reader.flag("qkv_bias", default=True), shared_expert=True, default_active=4)


def _qwen3_moe(reader: ConfigReader) -> dict[str, Any]:
    bias = reader.flag("attention_bias", default=False)
    return _qwen_moe(reader, qkv_bias=bias, output_bias=bias, query_key_norm=True)


def _qwen_moe(
    reader: ConfigReader,
    *,
    qkv_bias: bool,
    output_bias: bool = False,
    shared_expert: bool = False,
    default_active: int = 8,
    query_key_norm: bool = False,
) -> dict[str, Any]:
    sizes = _attention(reader)
    hidden, layers = sizes.hidden, sizes.layers
    expert_width = reader.positive("moe_intermediate_size")
    experts = reader.positive("num_experts", "num_local_experts", most=100_000)
    active = reader.positive("num_experts_per_tok", default=default_active, most=experts)
    step = reader.positive("decoder_sparse_step", default=1)
    dense_only = reader.indices("mlp_only_layers")
    sparse = sum(1 for layer in range(layers) if layer not in dense_only and (layer + 1) % step == 0)
    linears = [*_separate_attention(sizes, qkv_bias=qkv_bias, output_bias=output_bias)]
    width = active * expert_width
    if sparse < layers:
        # Beside experts PEFT takes the matrices of a dense MLP for theirs, in all of these families but Qwen2's.
        dense = _gated_mlp(hidden, reader.positive("intermediate_size"), copies=layers - sparse)
        linears += [linear.model_copy(update={"adaptable": shared_expert}) for linear in dense]
    if sparse:
        linears += _experts(hidden, expert_width, experts=experts, active=active, layers=sparse)
    if sparse and shared_expert:
        shared_width = reader.positive("shared_expert_intermediate_size")
        width += shared_width
        linears += _gated_mlp(hidden, shared_width, copies=sparse, prefix="shared_expert.")
        linears.append(Linear(name="shared_expert_gate", role="mlp", in_features=hidden, out_features=1, copies=sparse))
    norms = layers * (2 * hidden + (2 * sizes.head_dim if query_key_norm else 0)) + hidden
    return _common(reader, sizes, width=width, tied=False) | {
        "linears": tuple(linears),
        "norm_parameters": norms,
        "query_key_norm": query_key_norm,
    }


def _activation_tensors(reader: ConfigReader, field: str, *, default: str) -> int:
    """Written out in Python, the tanh form of GELU keeps four tensors; a fused function keeps its input."""
    return 4 if reader.word(field, default=default) in ("gelu_new", "gelu_fast", "quick_gelu") else 1


def _attention(
    reader: ConfigReader, *, default_head_dim: int | None = None, default_key_value_heads: int | None = None
) -> _Attention:
    hidden = reader.positive("hidden_size")
    layers = reader.positive("num_hidden_layers", most=MOST_LAYERS)
    heads = reader.positive("num_attention_heads", most=100_000)
    head_dim = reader.positive("head_dim", default=default_head_dim or hidden // heads or 1, most=100_000)
    if not default_head_dim and head_dim == hidden // heads:
        divisible(reader, field="hidden_size", value=hidden, by_field="num_attention_heads", by=heads)
    even(field="head_dim", value=head_dim)
    key_value_heads = reader.positive("num_key_value_heads", default=default_key_value_heads or heads, most=100_000)
    divisible(reader, field="num_attention_heads", value=heads, by_field="num_key_value_heads", by=key_value_heads)
    return _Attention(
        hidden, layers, heads, query=heads * head_dim, key_value=key_value_heads * head_dim, head_dim=head_dim
    )


def _common(
    reader: ConfigReader, sizes: _Attention, *, width: int, tied: bool, context: int | None = None
) -> dict[str, Any]:
    return {
        "layers": sizes.layers,
        "hidden_size": sizes.hidden,
        "query_size": sizes.query,
        "key_value_size": sizes.key_value,
        "heads": sizes.heads,
        "intermediate_size": width,
        "vocab_size": reader.positive("vocab_size"),
        "context_length": context or reader.positive("max_position_embeddings", default=2048),
        "tied_head": reader.flag("tie_word_embeddings", default=tied),
    }


def _separate_attention(
    sizes: _Attention, *, qkv_bias: bool = False, output_bias: bool = False, output_name: str = "o_proj"
) -> tuple[Linear, ...]:
    def linear(name: str, rows: int, columns: int, bias: bool) -> Linear:
        return Linear(
            name=name, role="attention", in_features=rows, out_features=columns, copies=sizes.layers, bias=bias
        )

    return (
        linear("q_proj", sizes.hidden, sizes.query, qkv_bias),
        linear("k_proj", sizes.hidden, sizes.key_value, qkv_bias),
        linear("v_proj", sizes.hidden, sizes.key_value, qkv_bias),
        linear(output_name, sizes.query, sizes.hidden, output_bias),
    )


def _gated_mlp(hidden: int, width: int, *, copies: int, bias: bool = False, prefix: str = "") -> tuple[Linear, ...]:
    def linear(name: str, rows: int, columns: int) -> Linear:
        return Linear(
            name=f"{prefix}{name}", role="mlp", in_features=rows, out_features=columns, copies=copies, bias=bias
        )

    return (linear("gate_proj", hidden, width), linear("up_proj", hidden, width), linear("down_proj", width, hidden))


def _experts(hidden: int, width: int, *, experts: int, active: int, layers: int) -> tuple[Linear, ...]:
    """`transformers` 5 keeps a layer's experts in two bare 3D parameters, out of reach of 4-bit."""

    def linear(name: str, rows: int, columns: int) -> Linear:
        return Linear(
            name=name,
            role="expert",
            in_features=rows,
            out_features=columns,
            copies=layers * experts,
            module=False,
            active_copies=layers * active,
        )

    router = Linear(
        name="router",
        role="router",
        in_features=hidden,
        out_features=experts,
        copies=layers,
        module=False,
        adaptable=False,
    )
    return (router, linear("experts.gate_up_proj", hidden, 2 * width), linear("experts.down_proj", width, hidden))


READERS: dict[str, Callable[[ConfigReader], dict[str, Any]]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "phi": _phi,
    "phi3": _phi3,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "smollm3": _llama,
    "mixtral": _mixtral,
    "qwen2_moe": _qwen2_moe,
    "qwen3_moe": _qwen3_moe,
}
