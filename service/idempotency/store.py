"""Queries about idempotency keys. One whose time is over counts as if it were not there."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, cast

from sqlalchemy import ARRAY, CursorResult, Text, bindparam, delete, func, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.locks import lock_names
from tunesmith.service.database.tables import IdempotencyKey
from tunesmith.tuning.errors import Conflict

_LIFETIME = timedelta(hours=24)

_ADD = text(
    """
    INSERT INTO idempotency_keys (project, key, request_sha256, job_id, expires_at)
    SELECT :project, key, request_sha256, job_id, now() + :lifetime
    FROM jsonb_to_recordset(:rows) AS row (key text, request_sha256 text, job_id text)
    ON CONFLICT (project, key) DO UPDATE
    SET (request_sha256, job_id, created_at, expires_at) =
        (excluded.request_sha256, excluded.job_id, now(), excluded.expires_at)
    WHERE idempotency_keys.expires_at < now()
    """
).bindparams(bindparam("rows", type_=JSONB))
_FIND = select(IdempotencyKey).where(
    IdempotencyKey.project == bindparam("of_project"),
    IdempotencyKey.key == func.any(bindparam("keys", type_=ARRAY(Text))),
    IdempotencyKey.expires_at >= func.now(),
)


class Reservation(NamedTuple):
    """What a key is to stand for: the job that the request makes."""

    key: str
    request_sha256: str
    job_id: str


async def lock(session: AsyncSession, keys: Collection[str], *, project: str) -> None:
    """Wait for requests in flight that came with these keys. Held until the transaction ends."""
    await lock_names(session, [lock_name(key, project=project) for key in keys])


def lock_name(key: str, *, project: str) -> str:
    """What requests with this key wait for, each for the one before it."""
    return f"idempotency key {project} {key}"


async def find(session: AsyncSession, keys: Collection[str], *, project: str) -> dict[str, IdempotencyKey]:
    """Those of the keys, which the caller has locked, that stand for something."""
    found = await session.execute(_FIND, {"of_project": project, "keys": list(keys)})
    return {row.key: row for row in found.scalars()}


async def add(session: AsyncSession, reservations: Sequence[Reservation], *, project: str) -> None:
    """Store keys, which the caller has locked and did not find.

    Raises:
        Conflict: somebody who takes no locks, as a version before this one, has stored one of them meanwhile.
    """
    rows = [reservation._asdict() for reservation in reservations]
    given = {"project": project, "lifetime": _LIFETIME, "rows": rows}
    stored = cast(CursorResult[Any], await session.execute(_ADD, given))
    if stored.rowcount < len(rows):
        raise Conflict("The same request is being handled right now.")


async def prune(session: AsyncSession) -> None:
    """Forget every key whose time is over."""
    expired = delete(IdempotencyKey).where(IdempotencyKey.expires_at < func.now())
    await session.execute(expired.execution_options(synchronize_session=False))
