"""A JSON schema in words: `integer or null`, `list of JobObject`, `1 to 50`."""

from collections.abc import Iterator
from typing import NamedTuple

from tunesmith.tuning.values.json_objects import Json

_SPANS = (("minimum", "maximum", ""), ("minLength", "maxLength", " characters"), ("minItems", "maxItems", " items"))


class Piece(NamedTuple):
    """A part of a type in words. `shape` names the object that it is; `is_value` marks a word of the wire."""

    text: str
    shape: str | None = None
    is_value: bool = False


def pieces_of(schema: Json, schemas: Json) -> list[Piece]:
    """The type in words; objects with a name are pieces of their own."""
    return list(_pieces(schema, schemas))


def name_of(schema: Json) -> str:
    """The name of the schema that this one refers to, else empty."""
    return str(schema.get("$ref", "")).rpartition("/")[2]


def without_null(schema: Json) -> Json:
    """The same for a value that is left out rather than sent as null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind.get("type") != "null"]
    return {**schema, "anyOf": kinds} if kinds else schema


def limits_of(schema: Json) -> str:
    """What a value must keep to, and what it is when it is left out."""
    kinds = [schema, *schema.get("anyOf", ())]
    words = [words for kind in kinds for words in _limits(kind)]
    default = schema.get("default")
    if default not in (None, []) and not isinstance(default, dict):
        words.append(f"default {_value(default)}")
    return ", ".join(dict.fromkeys(words))


def _limits(kind: Json) -> Iterator[str]:
    for lowest, highest, unit in _SPANS:
        if lowest in kind and highest in kind:
            yield f"{_number(kind[lowest])} to {_number(kind[highest])}{unit}"
        elif lowest in kind:
            yield f"at least {_number(kind[lowest])}{unit}"
        elif highest in kind:
            yield f"at most {_number(kind[highest])}{unit}"
    if "exclusiveMinimum" in kind:
        yield f"above {_number(kind['exclusiveMinimum'])}"
    if "exclusiveMaximum" in kind:
        yield f"below {_number(kind['exclusiveMaximum'])}"


def _pieces(schema: Json, schemas: Json) -> Iterator[Piece]:
    name = name_of(schema)
    if "enum" in schemas.get(name, {}):
        yield from _pieces(schemas[name], schemas)
    elif name:
        yield Piece(name, shape=name)
    elif "anyOf" in schema:
        yield from _joined([list(_pieces(kind, schemas)) for kind in schema["anyOf"]])
    elif "enum" in schema:
        yield from _joined([[Piece(_value(value), is_value=True)] for value in schema["enum"]])
    elif "const" in schema:
        yield Piece(_value(schema["const"]), is_value=True)
    else:
        yield from _plain(schema, schemas)


def _plain(schema: Json, schemas: Json) -> Iterator[Piece]:
    kind = schema.get("type")
    if kind == "array":
        yield Piece("list of ")
        yield from _pieces(schema.get("items") or (schema.get("prefixItems") or [{}])[0], schemas)
    elif kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        yield Piece("map of string to ")
        yield from _pieces(schema["additionalProperties"], schemas)
    elif schema.get("format") == "binary":
        yield Piece("bytes")
    else:
        yield Piece(kind or "any")


def _joined(kinds: list[list[Piece]]) -> Iterator[Piece]:
    seen: list[list[Piece]] = []
    for kind in kinds:
        if kind in seen:
            continue
        if seen:
            yield Piece(" or ")
        seen.append(kind)
        yield from kind


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return _number(value) if isinstance(value, float | int) else str(value)


def _number(value: float) -> str:
    return f"{value:,.16g}"
