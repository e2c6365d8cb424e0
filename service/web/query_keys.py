"""Keys of a query that a route does not know are refused, as those of a body are."""

import difflib
import re
from typing import Any

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest

_LONGEST_NAME = 64  # that is shown of an unknown key
_NESTED = re.compile(r"(?P<name>[^\[\]]+)\[[^\[\]]+\]")


async def known_query_keys(request: Request) -> None:
    """A dependency of every route under `/v1` and `/internal`.

    Raises:
        InvalidRequest: with the first unknown key as `param` and the nearest known one as the hint.
    """
    if not request.url.query:
        return
    flat, nested = _known(request.scope["route"])
    for key in request.query_params:
        match = _NESTED.fullmatch(key)
        if key not in flat and (match is None or match["name"] not in nested):
            raise _unknown(key[:_LONGEST_NAME], sorted(flat))


def _known(route: APIRoute) -> tuple[frozenset[str], frozenset[str]]:
    """The keys that a route takes, and those of them that are taken as `key[part]` too."""
    described: list[dict[str, Any]] = (route.openapi_extra or {}).get("parameters", [])
    nested = frozenset(str(one["name"]) for one in described if one.get("style") == "deepObject")
    return nested | _declared(route.dependant), nested


def _declared(dependant: Dependant) -> frozenset[str]:
    own = frozenset(field.alias for field in dependant.query_params)
    return own.union(*map(_declared, dependant.dependencies))


def _unknown(key: str, known: list[str]) -> InvalidRequest:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    hint = f"Did you mean '{near[0]}'?" if near else f"Known here: {', '.join(known) or 'none'}."
    return InvalidRequest(
        f"Unknown query parameter: '{key}'. {hint}", code=ErrorCode.UNKNOWN_PARAMETER, param=key, hint=hint
    )
