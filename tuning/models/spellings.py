"""One model's name as others write it: with Ollama's tags, revisions, names of GGUF files, and hyphens elsewhere."""

import re
from collections.abc import Iterator

_REVISION = re.compile(r"@[^@/]*$")
# How far weights are rounded, at the end of a GGUF file's name or of a tag: q4-k-m, iq3-xs, q8-0.
_ROUNDING = re.compile(r"[-.:]i?q\d(?:-[a-z0-9]{1,3})*$")
_GGUF = ".gguf"


def key_of(name: str) -> str:
    """Small letters, and a hyphen for whatever parts words."""
    return re.sub(r"[\s_]+", "-", name.strip().lower())


def is_rounded(key: str) -> bool:
    """Whether the name says that the weights are a GGUF file's, rounded for inference."""
    return key.endswith(_GGUF) or bool(_ROUNDING.search(key))


def spellings_of(key: str) -> Iterator[str]:
    """Other ways to write the same name, the nearest first. None of them leaves out a size or a version."""
    bare = _ROUNDING.sub("", _REVISION.sub("", key).removesuffix(_GGUF)).removesuffix(":latest")
    owner, slash, last = bare.rpartition("/")
    last = last.replace(":", "-")
    dotted = re.sub(r"(?<=\d)-(?=\d-\d+(?:\.\d+)?b\b)", ".", last)
    for text in dict.fromkeys((last, dotted)):
        apart = re.sub(r"^([a-z]+)(?=\d)", r"\1-", text)
        joined = re.sub(r"^([a-z]+)-(?=\d)", r"\1", text)
        yield from (f"{owner}{slash}{written}" for written in dict.fromkeys((text, apart, joined)))
