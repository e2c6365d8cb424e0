"""A part of JSON Schema (draft 2020-12) that says what answers should look like; a keyword beyond it is refused.

Validation: https://json-schema.org/draft/2020-12/json-schema-validation. Patterns are searched in linear time.
"""

from collections.abc import Callable, Iterator
from typing import Any

from tunesmith.tuning.scoring.linear_regex import LinearPattern, UnusablePattern

MOST_PARTS = 1000  # schemas within the schema
DEEPEST = 64  # schemas that are followed within one another, references with them

_TYPES = ("null", "boolean", "object", "array", "number", "integer", "string")
_SAID_ONLY = {
    "$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly",
    "format",
}  # fmt: skip
_SCHEMAS = ("not", "items", "additionalProperties", "contains", "propertyNames", "if", "then", "else")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS = ("properties", "$defs", "definitions")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_OTHERS = ("type", "enum", "const", "pattern", "required", "uniqueItems", "$ref")
_KNOWN = {*_SAID_ONLY, *_SCHEMAS, *_LISTS, *_MAPS, *_NUMBERS, *_COUNTS, *_OTHERS}


class UnusableSchema(ValueError):
    """It is no schema, or asks for what is not checked here; the message begins with where."""


class JsonSchema:
    """A schema that was looked through."""

    def __init__(self, schema: Any) -> None:
        """Look through it.

        Raises:
            UnusableSchema: with the place and the reason.
        """
        self._root = schema
        self._patterns: dict[str, LinearPattern] = {}
        for number, (where, part) in enumerate(_parts(schema, "#")):
            if number == MOST_PARTS:
                raise UnusableSchema(f"#: it has more than {MOST_PARTS:,} parts")
            self._check(part, where)

    def accepts(self, value: Any) -> bool:
        """Whether the value is as the schema says. One that leads in circles, or too deep, is not."""
        return self._accepts(self._root, value, 0)

    def _check(self, schema: Any, where: str) -> None:
        if isinstance(schema, bool):
            return
        if not isinstance(schema, dict):
            raise UnusableSchema(f"{where}: a schema is an object, true or false")
        for name, value in schema.items():
            if name not in _KNOWN:
                raise UnusableSchema(f"{where}: the keyword {name!r:.60} is not checked here")
            if (problem := _problem(name, value)) is not None:
                raise UnusableSchema(f"{where}/{name}: {problem}")
        if "$ref" in schema:
            self._target(schema["$ref"], where)
        if "pattern" in schema:
            self._compile(schema["pattern"], where)

    def _compile(self, pattern: str, where: str) -> None:
        try:
            self._patterns[pattern] = LinearPattern(pattern)
        except UnusablePattern as error:
            raise UnusableSchema(f"{where}/pattern: {error}") from error

    def _target(self, reference: str, where: str) -> Any:
        """What a reference within the schema, such as `#/$defs/item`, leads to."""
        found = self._root
        for part in reference.removeprefix("#").split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or name not in found:
                raise UnusableSchema(f"{where}/$ref: {reference!r:.80} leads nowhere")
            found = found[name]
        return found

    def _accepts(self, schema: Any, value: Any, depth: int) -> bool:
        if isinstance(schema, bool):
            return schema
        if depth > DEEPEST:
            return False

        def holds(inner: Any, part: Any) -> bool:
            return self._accepts(inner, part, depth + 1)

        return (
            all(_CHECKS[name](schema[name], value) for name in _CHECKS if name in schema)
            and ("pattern" not in schema or self._has_pattern(schema["pattern"], value))
            and ("$ref" not in schema or holds(self._target(schema["$ref"], "#"), value))
            and _combined(schema, value, holds)
            and (not isinstance(value, dict) or _object(schema, value, holds))
            and (not isinstance(value, list) or _array(schema, value, holds))
        )

    def _has_pattern(self, pattern: str, value: Any) -> bool:
        return not isinstance(value, str) or self._patterns[pattern].is_found_in(value)


Holds = Callable[[Any, Any], bool]


def equal(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same: 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def _parts(schema: Any, where: str) -> Iterator[tuple[str, Any]]:
    """The schema and every schema within it, with its place."""
    waiting = [(where, schema)]
    while waiting:
        place, part = waiting.pop()
        yield place, part
        if not isinstance(part, dict):
            continue
        waiting += [(f"{place}/{name}", part[name]) for name in _SCHEMAS if name in part]
        for name in _LISTS:
            waiting += [(f"{place}/{name}/{at}", inner) for at, inner in enumerate(_list(part.get(name)))]
        for name in _MAPS:
            waiting += [(f"{place}/{name}/{key}", inner) for key, inner in _object_of(part.get(name)).items()]


def _problem(name: str, value: Any) -> str | None:
    """What is wrong with a keyword's value."""
    if name == "type":
        named = value if isinstance(value, list) else [value]
        return None if named and all(one in _TYPES for one in named) else f"a type is one of {', '.join(_TYPES)}"
    if name in _NUMBERS:
        is_right = _is_number(value) and (name != "multipleOf" or value > 0)
        return None if is_right else "it must be a number, of multipleOf one above 0"
    if name in _COUNTS:
        return None if _is_integer(value) and value >= 0 else "it must be a whole number of 0 or more"
    if name in _SHAPES and not isinstance(value, _SHAPES[name][0]):
        return f"it must be {_SHAPES[name][1]}"
    if name == "required" and not all(isinstance(one, str) for one in value):
        return "it must be a list of names"
    return "only a place within the schema, #/..., can be followed" if name == "$ref" and value[:1] != "#" else None


def _combined(schema: dict[str, Any], value: Any, holds: Holds) -> bool:
    if "if" in schema:
        branch = "then" if holds(schema["if"], value) else "else"
        if branch in schema and not holds(schema[branch], value):
            return False
    return (
        all(holds(one, value) for one in schema.get("allOf", ()))
        and ("anyOf" not in schema or any(holds(one, value) for one in schema["anyOf"]))
        and ("oneOf" not in schema or sum(holds(one, value) for one in schema["oneOf"]) == 1)
        and ("not" not in schema or not holds(schema["not"], value))
    )


def _object(schema: dict[str, Any], value: dict[str, Any], holds: Holds) -> bool:
    known = schema.get("properties", {})
    rest = schema.get("additionalProperties", True)
    names = schema.get("propertyNames", True)
    return all(holds(known.get(key, rest), part) and holds(names, key) for key, part in value.items())


def _array(schema: dict[str, Any], value: list[Any], holds: Holds) -> bool:
    first = schema.get("prefixItems", [])
    rest = schema.get("items", True)
    return all(holds(first[at] if at < len(first) else rest, part) for at, part in enumerate(value)) and (
        "contains" not in schema or any(holds(schema["contains"], part) for part in value)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return _is_number(value) and float(value).is_integer()


def _has_type(wanted: str | list[str], value: Any) -> bool:
    named = wanted if isinstance(wanted, list) else [wanted]
    return any(_IS[name](value) for name in named)


def _is_unique(wanted: bool, value: Any) -> bool:
    if not wanted or not isinstance(value, list):
        return True
    return not any(equal(one, other) for at, one in enumerate(value) for other in value[:at])


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _object_of(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _sized(
    kind: type[str | list[Any] | dict[str, Any]], is_right: Callable[[int, int], bool]
) -> Callable[[Any, Any], bool]:
    return lambda bound, value: not isinstance(value, kind) or is_right(len(value), bound)


def _compared(is_right: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda bound, value: not _is_number(value) or is_right(value, bound)


def _at_least(size: int, bound: int) -> bool:
    return size >= bound


def _at_most(size: int, bound: int) -> bool:
    return size <= bound


_IS: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "number": _is_number,
    "integer": _is_integer,
}
_SHAPES: dict[str, tuple[type, str]] = {
    "enum": (list, "a list of values"),
    "required": (list, "a list of names"),
    "uniqueItems": (bool, "true or false"),
    "pattern": (str, "a text"),
    "$ref": (str, "a text"),
    **dict.fromkeys(_LISTS, (list, "a list of schemas")),
    **dict.fromkeys(_MAPS, (dict, "an object of schemas")),
}
_CHECKS: dict[str, Callable[[Any, Any], bool]] = {
    "type": _has_type,
    "enum": lambda allowed, value: any(equal(one, value) for one in allowed),
    "const": equal,
    "required": lambda names, value: not isinstance(value, dict) or all(name in value for name in names),
    "uniqueItems": _is_unique,
    "minLength": _sized(str, _at_least),
    "maxLength": _sized(str, _at_most),
    "minItems": _sized(list, _at_least),
    "maxItems": _sized(list, _at_most),
    "minProperties": _sized(dict, _at_least),
    "maxProperties": _sized(dict, _at_most),
    "minimum": _compared(lambda value, bound: value >= bound),
    "maximum": _compared(lambda value, bound: value <= bound),
    "exclusiveMinimum": _compared(lambda value, bound: value > bound),
    "exclusiveMaximum": _compared(lambda value, bound: value < bound),
    "multipleOf": _compared(lambda value, step: abs(value / step - round(value / step)) < 1e-9),
}
