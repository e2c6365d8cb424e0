"""JSON objects as they are in Python before anything is known of their keys."""

from typing import Any

Json = dict[str, Any]


def present(**values: Any) -> Json:
    """An object of the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}
