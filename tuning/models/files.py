"""Which files make up a model, by name and size: what is not named here is neither registered nor sent nor read."""

import re

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest

_MIB = 1024**2
_SAFE = re.compile(r".+\.(?:json|safetensors|jinja|model|txt|md)|license|notice", re.IGNORECASE)
CONFIG = "config.json"
WEIGHTS_INDEX = "model.safetensors.index.json"
SINGLE_WEIGHTS = "model.safetensors"
# What goes along with the weights. Nothing else leaves a folder or a hub: no code, no pickles, no caches.
COMPANIONS = frozenset(
    {
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "special_tokens_map.json",
        "spiece.model",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
        "vocab.txt",
    }
)
# Published ones are far below: 0.2 MB, 34 MB (Gemma 3), 9 MB (DeepSeek V3), 0.1 MB.
LARGEST_CONFIG_BYTES = 4 * _MIB
LARGEST_TOKENIZER_BYTES = 128 * _MIB
LARGEST_INDEX_BYTES = 64 * _MIB
LARGEST_OTHER_BYTES = 32 * _MIB


def check_model_file(name: str, *, length_bytes: int) -> None:
    """Refuse what could be code, or is far larger than such a file ever is. Weights may have any size.

    Raises:
        InvalidRequest: `unsafe_file`, or the size of the file.
    """
    if not _SAFE.fullmatch(name.rsplit("/", maxsplit=1)[-1]):
        raise InvalidRequest(
            f"{name} is no file of a model's: weights must be safetensors, and code is never taken.",
            code=ErrorCode.UNSAFE_FILE,
            param="files",
            hint="Take safetensors, JSON, the tokenizer's files, chat templates, texts; `tunesmith models add` does.",
        )
    if (most := largest_bytes(name)) is not None and length_bytes > most:
        raise InvalidRequest(
            f"{name} has {length_bytes:,} bytes; such a file may have {most:,}.",
            param="files",
            hint="Look whether it is what its name says.",
        )


def largest_bytes(name: str) -> int | None:
    """The most that a file of this name may have; None for weights."""
    last = name.rsplit("/", maxsplit=1)[-1].lower()
    if last.endswith(".safetensors"):
        return None
    if last.endswith(".index.json"):
        return LARGEST_INDEX_BYTES
    if last == CONFIG:
        return LARGEST_CONFIG_BYTES
    return LARGEST_TOKENIZER_BYTES if last.startswith(("tokenizer.", "vocab.", "spiece.")) else LARGEST_OTHER_BYTES
