"""Making what a worker reports storable: a log may hold any byte, and a loss may be NaN, but JSONB has neither."""

import math
from typing import Any, TypeVar

from pydantic_core import PydanticSerializationError, from_json, to_json

T = TypeVar("T")

_NUL = rb"\u0000"


def storable(value: T) -> T:
    """Return `value` without NUL characters and half surrogates; a number that is not finite becomes null.

    It is written as JSON and read again, which the parser does faster than Python looks at each part.
    """
    try:
        text = to_json(value, inf_nan_mode="null")
    except PydanticSerializationError:  # half a surrogate
        return _clean(value)  # type: ignore[no-any-return]
    return _clean(value) if _NUL in text else from_json(text)  # type: ignore[no-any-return]


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value
