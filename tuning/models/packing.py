"""How families of models take rows: packed, or one at a time by their own attention, or not at all.

`make families` tries every causal language model of transformers 5.23.0 (docs/families.md); what is not listed here
packs. The trainer tries each model again before it trains, and goes by what it finds.
"""

from collections.abc import Mapping
from typing import Any, Literal

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest

OwnAttention = Literal["eager", "sdpa"]

SEES_LATER_TOKENS = "Its tokens see the tokens after them: it is no causal language model."
UNKNOWN_HEAD = "Its output head does something that this trainer does not know."
NO_GRADIENT = "No gradient reaches its weights."
NOT_SUPPORTED_HINT = "docs/families.md lists the families of models that train."

# Families whose rows go through the model alone: recurrent and convolution layers that know no bounds, positions that
# are counted over the whole batch, classes from before transformers' attention interface. PyTorch's attention where the
# model says the same with it, else the one that its class writes out, which keeps its scores.
_SDPA = (
    "axk2", "bailing_hybrid", "bamba", "bart", "blenderbot", "blenderbot-small", "deepseek_v32", "doge", "falcon",
    "falcon_h1", "falcon_mamba", "glm_moe_dsa", "gpt_neo", "granitemoehybrid", "jamba", "kimi_linear", "lfm2",
    "lfm2_moe", "lfm3", "mamba", "mamba2", "marian", "mbart", "minimax", "nemotron", "nemotron_h", "olmo_hybrid",
    "openai-gpt", "pegasus", "plbart", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next",
    "recurrent_gemma", "rwkv", "stablelm", "xlstm", "zamba", "zamba2", "zaya",
)  # fmt: skip
_EAGER = (
    "bigbird_pegasus", "bloom", "codegen", "deepseek_v4", "git", "gpt_neox_japanese", "gptj", "hy_v4", "mpt", "mvp",
    "trocr", "xglm",
)  # fmt: skip
_BIDIRECTIONAL = (
    "bert", "bert-generation", "big_bird", "camembert", "cpmant", "data2vec-text", "electra", "ernie", "megatron-bert",
    "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm", "xlm-roberta", "xlm-roberta-xl",
    "xlnet", "xmod",
)  # fmt: skip
_OF_UNKNOWN_HEAD = ("inkling2_text", "inkling_text", "modernbert-decoder", "prophetnet")

REFUSED: Mapping[str, str] = {
    **dict.fromkeys(_BIDIRECTIONAL, SEES_LATER_TOKENS),
    **dict.fromkeys(_OF_UNKNOWN_HEAD, UNKNOWN_HEAD),
    "reformer": NO_GRADIENT,
}


def attention_alone(family: str) -> OwnAttention | None:
    """What a family attends by whose rows go through the model one at a time; None for one that packs."""
    if family in _EAGER:
        return "eager"
    return "sdpa" if family in _SDPA else None


def require_causal(config: Mapping[str, Any]) -> None:
    """Refuse a family that the trainer is known to refuse, in its words.

    Raises:
        InvalidRequest: `model_not_supported`.
    """
    family = config.get("model_type")
    problem = REFUSED.get(family) if isinstance(family, str) else None
    if problem is None or (problem == SEES_LATER_TOKENS and config.get("is_decoder") is True):
        return
    raise InvalidRequest(
        not_supported(problem), code=ErrorCode.MODEL_NOT_SUPPORTED, param="config.model_type", hint=NOT_SUPPORTED_HINT
    )


def not_supported(problem: str) -> str:
    """The sentence that planner and trainer refuse a model with."""
    return f"This model cannot be trained here. {problem}"
