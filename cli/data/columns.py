"""Which columns of a table are a row's prompt, answer, text or messages, and the row that they make."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tunesmith.tuning.datasets.row_errors import BadRow
from tunesmith.tuning.errors import InvalidTrainingFile
from tunesmith.tuning.values.json_objects import Json

Record = Mapping[str, Any]


class Mapped(NamedTuple):
    """How records become rows: the key of a row by column, the columns left out, and the function itself."""

    keys: dict[str, str]
    left_out: tuple[str, ...]
    row: Callable[[Record], Json]


# The column of each key by the names in use, the first set that is whole wins.
_SETS: tuple[dict[str, tuple[str, ...]], ...] = (
    {"messages": ("messages", "conversations")},
    {"prompt": ("prompt",), "chosen": ("chosen",), "rejected": ("rejected",)},
    {"prompt": ("prompt", "instruction", "question"), "completion": ("completion", "output", "response", "answer")},
    {"text": ("text",)},
)
_JSON_KEYS = frozenset({"messages", "tools"})


def mapped(columns: tuple[str, ...], *, name: str) -> Mapped:
    """The mapping for a table with these columns.

    Raises:
        InvalidTrainingFile: no set of columns makes a row.
    """
    known = {column.strip().lower(): column for column in columns}
    for wanted in _SETS:
        found = {key: next((known[one] for one in names if one in known), None) for key, names in wanted.items()}
        if all(found.values()):
            return _mapping({column: key for key, column in found.items() if column}, known, columns)
    raise InvalidTrainingFile(
        f"{name} has the columns {', '.join(columns)[:200]}: no row can be made of these.",
        param="training_file",
        hint="Name them messages; prompt and completion; instruction and output; prompt, chosen, rejected; or text.",
    )


def _mapping(keys: dict[str, str], known: dict[str, str], columns: tuple[str, ...]) -> Mapped:
    more = known.get("input") if known.get("instruction") in keys else None
    if "messages" in keys.values() and "tools" in known:
        keys[known["tools"]] = "tools"
    left_out = tuple(column for column in columns if column not in keys and column != more)
    shown = keys | ({more: "prompt"} if more else {})
    return Mapped(shown, left_out, lambda record: _row(record, keys=keys, more=more))


def _row(record: Record, *, keys: dict[str, str], more: str | None) -> Json:
    row = {key: _value(record.get(column), key=key, column=column) for column, key in keys.items()}
    if row.get("tools") is None:
        row.pop("tools", None)
    if more and record.get(more):
        row["prompt"] = f"{row['prompt']}\n\n{record[more]}"
    return row


def _value(value: Any, *, key: str, column: str) -> Any:
    if key not in _JSON_KEYS:
        return value if isinstance(value, dict | list | str) else "" if value is None else str(value)
    if not isinstance(value, str):
        return _without_nulls(value)
    try:
        return json.loads(value) if value.strip() else None
    except (ValueError, RecursionError) as error:
        raise BadRow(f"{column} is no JSON ({error})", fix=f"Write {column} as a JSON list of messages.") from error


def _without_nulls(value: Any) -> Any:
    """Tables give every object all the keys that any has."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
