"""Who may write about an attempt: the holder of its lease token, for as long as the job is this attempt's.

Every write locks the job's row first and then looks at the epoch, so that a takeover is before the whole write or after
it. A lease that has run out but was not taken over may still be renewed: the token is fenced, not the clock.
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import Attempt, Job
from tunesmith.service.jobs import store as jobs
from tunesmith.service.keys import secrets
from tunesmith.service.web.auth import bearer
from tunesmith.service.web.dependencies import DatabaseDep, DbSession
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import LeaseLost, Unauthenticated
from tunesmith.tuning.state import JobState


@dataclass(frozen=True)
class Held:
    """A job and its open attempt, both locked until the end of the transaction."""

    job: Job
    attempt: Attempt


async def authenticate(session: AsyncSession, attempt_id: str, token: str) -> Attempt:
    """The attempt whose token this is, open or not.

    Raises:
        Unauthenticated: there is no such attempt, or the token is not its.
    """
    attempt = await session.get(Attempt, attempt_id)
    if attempt is None or not secrets.matches(token, attempt.lease_token_sha256):
        raise Unauthenticated("This is not the lease token of that attempt.", code=ErrorCode.INVALID_LEASE_TOKEN)
    return attempt


async def hold(session: AsyncSession, attempt: Attempt) -> Held:
    """Lock the job and make sure that this attempt still owns it.

    Raises:
        LeaseLost: it does not.
    """
    job = await jobs.lock(session, attempt.job_id)
    await session.refresh(attempt)
    if job.state != JobState.RUNNING or job.epoch != attempt.epoch or attempt.ended_at is not None:
        raise LeaseLost("Another attempt owns this job, or it has ended. Stop, and write nothing more.")
    return Held(job, attempt)


async def hold_by_token(session: AsyncSession, attempt_id: str, token: str) -> Held:
    """Both: the attempt whose token this is, locked with its job.

    Raises:
        Unauthenticated: there is no such attempt, or the token is not its.
        LeaseLost: it no longer owns its job.
    """
    return await hold(session, await authenticate(session, attempt_id, token))


async def _authenticated(request: Request, attempt_id: str, session: DbSession) -> Attempt:
    return await authenticate(session, attempt_id, bearer(request))


async def _held(attempt: Annotated[Attempt, Depends(_authenticated)], session: DbSession) -> Held:
    return await hold(session, attempt)


async def _authenticated_now(request: Request, attempt_id: str, database: DatabaseDep) -> None:
    async with database.transaction() as session:
        await authenticate(session, attempt_id, bearer(request))


async def _checked(request: Request, attempt_id: str, database: DatabaseDep) -> Held:
    """The same test in a transaction of its own, for routes that move bytes and must not hold a lock meanwhile."""
    async with database.transaction() as session:
        return await hold_by_token(session, attempt_id, bearer(request))


# Routes ask in this order: whose token it is, then the body, and only then the lock, which waits for no slow sender.
LeaseHolder = Annotated[Attempt, Depends(_authenticated)]
CheckedLeaseHolder = Annotated[None, Depends(_authenticated_now)]
LockedAttempt = Annotated[Held, Depends(_held)]
CheckedAttempt = Annotated[Held, Depends(_checked)]
