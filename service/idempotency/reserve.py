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
    if not 1 <= len(key) <= 255:
        raise InvalidRequest("An Idempotency-Key has 1 to 255 characters.", param="Idempotency-Key")
    if await store.add(session, key, project=project, request_sha256=request_sha256, job_id=job_id):
        return None
    stored = await store.get(session, key, project=project)
    if stored.request_sha256 != request_sha256:
        message = "This Idempotency-Key was used for a different request."
        raise InvalidRequest(message, code=ErrorCode.IDEMPOTENCY_KEY_REUSED, param="Idempotency-Key")
    return stored.job_id
