"""A tokenizer's words as GGUF keeps them: tokens, their kinds, merges, and how text is cut before merging."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # gguf.TokenType
# How text is cut before merging, by what only the regular expression of one family has; llama.cpp knows it by name.
_CUTS_BY_EXPRESSION = (("\\p{N}{1,3}", "llama-bpe"), ("\\p{N}|", "qwen2"))


class NoGgufForm(Exception):
    """This model has no GGUF form that is known here; the message names what it is."""


@dataclass(frozen=True)
class GgufTokenizer:
    """What is written of a tokenizer."""

    cut: str  # the value of `tokenizer.ggml.pre`
    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    special_ids: dict[str, int]  # by `bos`, `eos`, `pad` and `unk`
    adds_bos: bool
    chat_template: str | None


def describe(tokenizer: PreTrainedTokenizerBase, folder: Path, *, vocabulary_size: int) -> GgufTokenizer:
    """The tokenizer in `folder`, filled up with unused tokens to the rows of the model's embedding.

    Raises:
        NoGgufForm: it is no byte-level BPE, or cuts text in a way that llama.cpp has no name for here.
    """
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model = content["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise NoGgufForm(f"The tokenizer is {model.get('type')} with bytes as a way out, not BPE over bytes.")
    tokens = [f"[PAD{number}]" for number in range(vocabulary_size)]
    kinds = [_UNUSED] * vocabulary_size
    for token, number in model["vocab"].items():
        tokens[number], kinds[number] = token, _NORMAL
    for added in content.get("added_tokens", ()):
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = _CONTROL if added["special"] else _USER_DEFINED
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad", "unk")}
    template = tokenizer.chat_template
    return GgufTokenizer(
        cut=_cut(content.get("pre_tokenizer") or {}),
        tokens=tokens,
        kinds=kinds,
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]],
        special_ids={name: number for name, number in ids.items() if number is not None},
        adds_bos=tokenizer("a")["input_ids"][0] == ids["bos"],
        chat_template=template if isinstance(template, str) else None,
    )


def _cut(pre_tokenizer: dict[str, Any]) -> str:
    """The name that llama.cpp has for how the tokenizer cuts text.

    Raises:
        NoGgufForm: none is known here.
    """
    steps = pre_tokenizer.get("pretokenizers") or [pre_tokenizer]
    by_kind = {step.get("type"): step for step in steps}
    if "ByteLevel" not in by_kind or not by_kind.keys() <= {"ByteLevel", "Digits", "Split"}:
        raise NoGgufForm(f"The tokenizer cuts text by {', '.join(str(kind) for kind in by_kind)}.")
    expression = str(by_kind.get("Split", {}).get("pattern", {}).get("Regex", ""))
    if not expression and by_kind["ByteLevel"].get("use_regex", True):
        return "smollm" if by_kind.get("Digits", {}).get("individual_digits") else "gpt-2"
    for sign, name in _CUTS_BY_EXPRESSION:
        if sign in expression and "Digits" not in by_kind:
            return name
    raise NoGgufForm("The tokenizer cuts text by an expression that has no name in llama.cpp that is known here.")
