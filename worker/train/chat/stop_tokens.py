"""The tokens by which a model ends a reply, as its tokenizer and its settings name them."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

_FILES = ("generation_config.json", "config.json")


def stop_tokens(folder: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """The tokenizer's own end-of-sequence token first, then those of the model's settings, without repetition.

    Empty where neither names one, or names a number that the tokenizer does not know.
    """
    ids = [tokenizer.eos_token_id]
    for name in _FILES:
        ids += _listed(_read(folder / name).get("eos_token_id"))
    known = len(tokenizer)
    tokens = [tokenizer.convert_ids_to_tokens(number) for number in ids if number is not None and 0 <= number < known]
    return tuple(dict.fromkeys(token for token in tokens if token))


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _listed(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [number for number in values if isinstance(number, int) and not isinstance(number, bool)]
