"""Why a row cannot be trained on, in words for whoever wrote the file."""

import difflib
from collections.abc import Iterable
from typing import Any

CORRECT = "Correct the line and upload the file again."


class BadRow(ValueError):
    """A row that cannot be trained on: its `line`, counted from 1, the `reason`, and as a sentence how to `fix` it."""

    def __init__(self, reason: str, *, fix: str = CORRECT, line: int = 0) -> None:
        super().__init__(reason)
        self.reason, self.fix, self.line = reason, fix, line


class NothingToLearn(BadRow):
    """A row without a word that the model should learn to write."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason}: there is nothing to learn",
            fix="Give the row an assistant's message or a completion with words, of weight 1 if it has a weight, or "
            "leave the row out.",
        )


def refuse_unknown_keys(value: dict[str, Any], known: frozenset[str], *, where: str = "") -> None:
    """Pass over an object whose keys are all known; `where` is what stands before a key in the reason.

    Raises:
        BadRow: it has another key.
    """
    if known.issuperset(value):
        return
    key = next(key for key in value if key not in known)
    raise BadRow(f"unknown key {where}{key:.60}{near_key([key], known)}", fix="Rename the key, or leave it out.")


def near_key(keys: Iterable[str], known: Iterable[str]) -> str:
    """A question that names the known key that one of `keys` resembles; empty where none does."""
    candidates = sorted(known)
    for key in keys:
        if near := difflib.get_close_matches(key[:60], candidates, n=1):
            return f" (did you mean {near[0]!r}?)"
    return ""


def kind_of(value: Any) -> str:
    """What a JSON value is, with its article."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
