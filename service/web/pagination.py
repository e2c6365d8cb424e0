"""Lists in the API's shape, one page at a time."""

from collections.abc import Sequence
from typing import Any


def page(items: Sequence[dict[str, Any]], *, limit: int) -> dict[str, Any]:
    """Build a page from up to `limit + 1` items: the extra one only says that there is more."""
    shown = list(items[:limit])
    return {
        "object": "list",
        "data": shown,
        "has_more": len(items) > limit,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
    }


def listing(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A list that has no pages."""
    return {"object": "list", "data": list(items)}
