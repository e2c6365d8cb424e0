"""Names of models that nobody can train here, and why. Families whose config tells it are in `packing.REFUSED`."""

import re
from typing import NamedTuple

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.models.packing import NOT_SUPPORTED_HINT, SEES_LATER_TOKENS, not_supported

# Whose weights nobody can have: names that jobs of OpenAI's own API carry.
CLOSED = ("gpt-3.5", "gpt-4", "gpt-5", "o1", "o3", "o4-mini", "davinci", "babbage", "claude", "gemini")
HAS_ENCODER = "It reads its input by an encoder of its own: it is no causal language model."
BRINGS_CODE = "It is built by Python code that comes with it, and no model's code is run here."


class _Kind(NamedTuple):
    problem: str
    names: re.Pattern[str]


def _kind(problem: str, *names: str) -> _Kind:
    return _Kind(problem, re.compile(rf"^(?:{'|'.join(names)})"))


# Beginnings of names, without their owner.
_KINDS = (
    _kind(
        SEES_LATER_TOKENS,
        r"(?:[a-z]+-)?[a-z]*bert(?:a|-|$)", r"[a-z-]*roberta-", r"m?deberta", r"electra-", r"longformer",
        r"(?:all-)?mpnet", r"all-minilm", r"paraphrase-", r"bge-(?:small|base|large|m3)",
        r"(?:multilingual-)?e5-(?:small|base|large)",
        r"gte-(?:small|base|large|multilingual)", r"nomic-embed-text", r"mxbai-embed", r"snowflake-arctic-embed-",
    ),
    _kind(HAS_ENCODER, r"(?:flan-|m|by|um|long-?|code)?t5(?:-|$)", r"(?:flan-)?ul2", r"nllb-", r"m2m100", r"madlad400"),
    _kind(
        BRINGS_CODE,
        r"chatglm", r"glm-4-9b(?:-chat(?:-1m)?)?$", r"baichuan", r"internlm2?(?:\.5|-5)?-",
        r"qwen-(?:1\.8b|1-8b|7b|14b|72b)",
        r"phi-3-small", r"phi-3(?:\.5)?-vision", r"phi-4-mini-flash", r"kimi-(?:k2|vl)",
        r"llama-3[.-]\d-nemotron-(?:super|ultra|51b)", r"exaone-3", r"minicpm-(?:1b|2b|v|o)", r"minicpm4", r"hymba",
        r"internvl\d?(?:[.-]\d)?-(?!.*-hf$)", r"deepseek-(?:vl2|moe)", r"(?:ling|ring)-(?:mini|flash|lite|1t)",
        r"openelm", r"mimo-7b", r"xverse", r"telechat",
    ),
)  # fmt: skip


def refusal_of(name: str, bare: str) -> InvalidRequest | None:
    """The error for a model that is known not to train here; `bare` is its name in small letters, without its owner."""
    if bare.startswith(CLOSED):
        return InvalidRequest(
            f"The weights of {name} are not published, so nobody else can train it.",
            code=ErrorCode.UNKNOWN_MODEL,
            param="model",
            hint="Name an open model, such as llama-3.1-8b or Qwen/Qwen3-8B.",
        )
    problem = next((kind.problem for kind in _KINDS if kind.names.match(bare)), None)
    if problem is None:
        return None
    return InvalidRequest(
        not_supported(problem), code=ErrorCode.MODEL_NOT_SUPPORTED, param="model", hint=NOT_SUPPORTED_HINT
    )
