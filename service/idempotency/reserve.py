"""Reserving a key for the job that a request is about to make."""

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.idempotency import store
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest


async def reserve(session: AsyncSession, key: str, *, project: str, request_sha256: str, job_id: str) -> str | None:
    """Store the key for this job, or return the id of the job that has it. Waits for a copy that is in flight.

    Raises:
        InvalidRequest: the key is empty or too long, or was used for a request with another hash.
    """
    check_key(key)
    if await store.add(session, key, project=project, request_sha256=request_sha256, job_id=job_id):
        return None
    stored = await store.get(session, key, project=project)
    if stored.request_sha256 != request_sha256:
        raise key_was_used()
    return stored.job_id


def check_key(key: str) -> None:
    """Refuse what can be no key.

    Raises:
        InvalidRequest: it is empty or too long.
    """
    if not 1 <= len(key) <= 255:
        message = f"An Idempotency-Key has 1 to 255 characters; this one has {len(key):,}."
        raise InvalidRequest(message, param="Idempotency-Key", hint="Send any word of that length, such as a UUID.")


def key_was_used() -> InvalidRequest:
    """The error for a key that another request came with."""
    return InvalidRequest(
        "This Idempotency-Key was used for a different request.",
        code=ErrorCode.IDEMPOTENCY_KEY_REUSED,
        param="Idempotency-Key",
        hint="Send the same request again, or another key.",
    )
