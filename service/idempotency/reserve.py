"""Reserving a key for the job that a request is about to make."""

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import IdempotencyKey
from tunesmith.service.idempotency import store
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest


async def reserve(session: AsyncSession, key: str, *, project: str, request_sha256: str, job_id: str) -> str | None:
    """Store the key for this job, or return the id of the job that has it. Waits for a copy that is in flight.

    Raises:
        InvalidRequest: the key is empty or too long, or was used for a request with another hash.
    """
    check_key(key)
    await store.lock(session, [key], project=project)
    stored = (await store.find(session, [key], project=project)).get(key)
    if stored is None:
        await store.add(session, [store.Reservation(key, request_sha256, job_id)], project=project)
        return None
    if not was_for(stored, request_sha256):
        raise key_was_used()
    return stored.job_id


def was_for(stored: IdempotencyKey, request_sha256: str) -> bool:
    """Whether the key came with this very request."""
    return stored.request_sha256 == request_sha256


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
