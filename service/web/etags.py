"""Answers that are not sent again to whoever has them: an `etag` made of their content, and 304."""

from typing import Annotated, Any, Final

from fastapi import Header, Query, Response

from tunesmith.tuning.api.base import Answer
from tunesmith.tuning.values.hashes import sha256_of_text

NOT_MODIFIED: Final[dict[int | str, dict[str, Any]]] = {304: {"description": "Nothing has changed."}}
IfNoneMatch = Annotated[str | None, Header(description="The `etag` of the answer that is known.")]
Wait = Annotated[float, Query(ge=0, le=60, description="For how many seconds to wait for a change.")]


def tagged(answer: Answer, *, known: str | None, shown: Answer | None = None) -> Response:
    """The answer, or 304 where the client knows it. What is `shown` may say more, which is no change of the answer."""
    body = answer.model_dump_json()
    etag = etag_of(body)
    if is_known(etag, known):
        return Response(status_code=304, headers={"etag": etag})
    if shown is not None:
        body = shown.model_dump_json()
    return Response(body, media_type="application/json", headers={"etag": etag})


def etag_of(body: str) -> str:
    """Another one whenever the answer reads differently. Weak, because compression changes its bytes."""
    return f'W/"{sha256_of_text(body)[:32]}"'


def is_known_answer(answer: Answer, known: str | None) -> bool:
    """Whether the client has it as it is."""
    return is_known(etag_of(answer.model_dump_json()), known)


def is_known(etag: str, known: str | None) -> bool:
    """Whether it is among those of an `If-None-Match`, of which `*` names any; strong or weak is the same there."""
    if known is None:
        return False
    named = {part.strip().removeprefix("W/") for part in known.split(",")}
    return "*" in named or etag.removeprefix("W/") in named
