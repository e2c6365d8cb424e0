"""Sizes of popular models, as their published config.json gives them: planning needs neither weights nor network."""

from difflib import get_close_matches
from functools import cache
from typing import Any

from tuning.errors import InvalidRequest
from tuning.shape import ModelShape


def _llama(
    *sizes: int,
    context: int,
    tied: bool = False,
    family: str = "llama",
    head_dim: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    hidden, layers, heads, key_value_heads, width, vocab = sizes
    return {
        "model_type": family,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "head_dim": head_dim,
        "intermediate_size": width,
        "vocab_size": vocab,
        "max_position_embeddings": context,
        "tie_word_embeddings": tied,
        **more,
    }


def _gpt2(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    return {"model_type": "gpt2", "n_embd": hidden, "n_layer": layers, "n_head": heads, "vocab_size": 50257}


def _pythia(hidden: int, layers: int, heads: int, vocab: int = 50304) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {"model_type": "gpt_neox", **sizes, "intermediate_size": 4 * hidden, "vocab_size": vocab}


K = 1024
# hidden, layers, heads, key-value heads, MLP width, vocabulary
CONFIGS: dict[str, dict[str, Any]] = {
    "llama-2-7b": _llama(4096, 32, 32, 32, 11008, 32000, context=4 * K),
    "llama-2-13b": _llama(5120, 40, 40, 40, 13824, 32000, context=4 * K),
    "llama-2-70b": _llama(8192, 80, 64, 8, 28672, 32000, context=4 * K),
    "codellama-34b": _llama(8192, 48, 64, 8, 22016, 32000, context=16 * K),
    "llama-3-8b": _llama(4096, 32, 32, 8, 14336, 128256, context=8 * K),
    "llama-3-70b": _llama(8192, 80, 64, 8, 28672, 128256, context=8 * K),
    "llama-3.1-8b": _llama(4096, 32, 32, 8, 14336, 128256, context=128 * K),
    "llama-3.1-70b": _llama(8192, 80, 64, 8, 28672, 128256, context=128 * K),
    "llama-3.1-405b": _llama(16384, 126, 128, 8, 53248, 128256, context=128 * K),
    "llama-3.2-1b": _llama(2048, 16, 32, 8, 8192, 128256, context=128 * K, tied=True),
    "llama-3.2-3b": _llama(3072, 28, 24, 8, 8192, 128256, context=128 * K, tied=True),
    "llama-3.3-70b": _llama(8192, 80, 64, 8, 28672, 128256, context=128 * K),
    "tinyllama-1.1b": _llama(2048, 22, 32, 4, 5632, 32000, context=2 * K),
    "smollm2-135m": _llama(576, 30, 9, 3, 1536, 49152, context=8 * K, tied=True),
    "smollm2-360m": _llama(960, 32, 15, 5, 2560, 49152, context=8 * K, tied=True),
    "smollm2-1.7b": _llama(2048, 24, 32, 32, 8192, 49152, context=8 * K, tied=True),
    "mistral-7b": _llama(4096, 32, 32, 8, 14336, 32000, context=32 * K, family="mistral"),
    "mistral-nemo-12b": _llama(5120, 40, 32, 8, 14336, 131072, context=128 * K, family="mistral", head_dim=128),
    "mistral-small-24b": _llama(5120, 40, 32, 8, 32768, 131072, context=32 * K, family="mistral", head_dim=128),
    "mixtral-8x7b": _llama(
        4096, 32, 32, 8, 14336, 32000, context=32 * K, family="mixtral", num_local_experts=8, num_experts_per_tok=2
    ),
    "mixtral-8x22b": _llama(
        6144, 56, 48, 8, 16384, 32000, context=64 * K, family="mixtral", num_local_experts=8, num_experts_per_tok=2
    ),
    "qwen2.5-0.5b": _llama(896, 24, 14, 2, 4864, 151936, context=32 * K, tied=True, family="qwen2"),
    "qwen2.5-1.5b": _llama(1536, 28, 12, 2, 8960, 151936, context=32 * K, tied=True, family="qwen2"),
    "qwen2.5-3b": _llama(2048, 36, 16, 2, 11008, 151936, context=32 * K, tied=True, family="qwen2"),
    "qwen2.5-7b": _llama(3584, 28, 28, 4, 18944, 152064, context=128 * K, family="qwen2"),
    "qwen2.5-14b": _llama(5120, 48, 40, 8, 13824, 152064, context=128 * K, family="qwen2"),
    "qwen2.5-32b": _llama(5120, 64, 40, 8, 27648, 152064, context=128 * K, family="qwen2"),
    "qwen2.5-72b": _llama(8192, 80, 64, 8, 29568, 152064, context=128 * K, family="qwen2"),
    "qwen3-0.6b": _llama(1024, 28, 16, 8, 3072, 151936, context=40 * K, tied=True, family="qwen3", head_dim=128),
    "qwen3-1.7b": _llama(2048, 28, 16, 8, 6144, 151936, context=40 * K, tied=True, family="qwen3", head_dim=128),
    "qwen3-4b": _llama(2560, 36, 32, 8, 9728, 151936, context=40 * K, tied=True, family="qwen3", head_dim=128),
    "qwen3-8b": _llama(4096, 36, 32, 8, 12288, 151936, context=40 * K, family="qwen3", head_dim=128),
    "qwen3-14b": _llama(5120, 40, 40, 8, 17408, 151936, context=40 * K, family="qwen3", head_dim=128),
    "qwen3-32b": _llama(5120, 64, 64, 8, 25600, 151936, context=40 * K, family="qwen3", head_dim=128),
    "qwen3-30b-a3b": _llama(
        2048,
        48,
        32,
        4,
        6144,
        151936,
        context=40 * K,
        family="qwen3_moe",
        head_dim=128,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=768,
    ),
    "qwen1.5-moe-a2.7b": _llama(
        2048,
        24,
        16,
        16,
        5632,
        151936,
        context=8 * K,
        family="qwen2_moe",
        num_experts=60,
        num_experts_per_tok=4,
        moe_intermediate_size=1408,
        shared_expert_intermediate_size=5632,
    ),
    "gemma-2-2b": _llama(2304, 26, 8, 4, 9216, 256000, context=8 * K, tied=True, family="gemma2", head_dim=256),
    "gemma-2-9b": _llama(3584, 42, 16, 8, 14336, 256000, context=8 * K, tied=True, family="gemma2", head_dim=256),
    "gemma-2-27b": _llama(4608, 46, 32, 16, 36864, 256000, context=8 * K, tied=True, family="gemma2", head_dim=128),
    "gemma-3-1b": _llama(1152, 26, 4, 1, 6912, 262144, context=32 * K, tied=True, family="gemma3_text", head_dim=256),
    "gemma-3-4b-text": _llama(
        2560, 34, 8, 4, 10240, 262208, context=128 * K, tied=True, family="gemma3_text", head_dim=256
    ),
    "phi-2": _llama(2560, 32, 32, 32, 10240, 51200, context=2 * K, family="phi"),
    "phi-3-mini": _llama(3072, 32, 32, 32, 8192, 32064, context=4 * K, family="phi3"),
    "phi-4": _llama(5120, 40, 40, 10, 17920, 100352, context=16 * K, family="phi3"),
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-medium": _gpt2(1024, 24, 16),
    "gpt2-xl": _gpt2(1600, 48, 25),
    "pythia-160m": _pythia(768, 12, 12),
    "pythia-1.4b": _pythia(2048, 24, 16),
    "pythia-6.9b": _pythia(4096, 32, 32, 50432),
}


def find_shape(name: str) -> ModelShape:
    """The shape of a model that people name, such as `Llama-3.1-8B-Instruct` or `Qwen/Qwen2.5-7B`.

    Raises:
        InvalidRequest: unknown; the hint names near ones.
    """
    key = _key(name)
    if key not in CONFIGS:
        near = get_close_matches(key, CONFIGS, n=4, cutoff=0.5) or sorted(CONFIGS)
        raise InvalidRequest(
            f"No model is known by the name {name!r}.",
            code="unknown_model",
            param="model",
            hint=f"Near it: {', '.join(near)}. Any other model: --config its config.json.",
        )
    return _shape(key)


@cache
def _shape(key: str) -> ModelShape:
    return ModelShape.from_config(CONFIGS[key])


def _key(name: str) -> str:
    """Lower case, without the owner, `meta-`, and the words for tuned variants, which have the base's sizes."""
    key = name.lower().rsplit("/", 1)[-1].replace("_", "-").removeprefix("meta-")
    for suffix in ("-hf", "-base", "-instruct", "-it", "-pt", "-chat"):
        key = key.removesuffix(suffix)
    return key
