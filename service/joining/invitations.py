"""Inviting a machine, and letting it join: a token is used once, and becomes a key of the machine's own."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.audit import store as audit
from tunesmith.service.audit.actions import Action, Actor
from tunesmith.service.database.access_tables import Invitation
from tunesmith.service.database.ids import new_id
from tunesmith.service.database.tables import ApiKey
from tunesmith.service.database.transactions import now
from tunesmith.service.joining import store
from tunesmith.service.keys import lifecycle as keys
from tunesmith.service.keys.secrets import JOIN_PREFIX, new_secret
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest, NotFound, Unauthenticated
from tunesmith.tuning.messages import JoinRequest
from tunesmith.tuning.values.hashes import sha256_of_text
from tunesmith.tuning.words import KeyRole

_ASK_AGAIN = "Ask an admin for a new line: `tunesmith workers invite`."


@dataclass(frozen=True)
class Invited:
    """An invitation with its token, which is shown once."""

    row: Invitation
    token: str


async def invite(
    session: AsyncSession, *, name: str | None, lifetime: timedelta, project: str, actor: Actor
) -> Invited:
    """Make an invitation for one worker."""
    token = new_secret(JOIN_PREFIX)
    row = Invitation(
        id=new_id("invite"),
        name=name,
        token_sha256=sha256_of_text(token),
        project=project,
        expires_at=await now(session) + lifetime,
    )
    session.add(row)
    await session.flush()
    seconds = round(lifetime.total_seconds())
    audit.record(session, actor, Action.WORKER_INVITED, row.id, name=name, expires_in_seconds=seconds)
    return Invited(row, token)


async def withdraw(session: AsyncSession, invitation_id: str, *, actor: Actor) -> Invitation:
    """Let nobody join with it any more. A key that came of it stays: revoke that by itself.

    Raises:
        NotFound: no such invitation.
    """
    row = await store.lock(session, invitation_id)
    if row is None:
        message = f"No invitation {invitation_id!r:.120}."
        raise NotFound(message, code=ErrorCode.INVITATION_NOT_FOUND, param="invitation_id")
    at = await now(session)
    if status_of(row, at=at) == "open":
        row.expires_at = at
        audit.record(session, actor, Action.INVITATION_WITHDRAWN, row.id)
    return row


async def require_open(session: AsyncSession, token: str) -> Invitation:
    """The invitation of a token that a worker can still join with.

    Raises:
        Unauthenticated: the token is unknown, used or expired, each under its own code.
    """
    row = await require_known(session, token)
    _check_open(row, at=await now(session))
    return row


async def require_known(session: AsyncSession, token: str) -> Invitation:
    """The invitation of a token, open or not.

    Raises:
        Unauthenticated: the token is unknown.
    """
    row = await store.find(session, sha256_of_text(token))
    if row is None:
        hint = f"Paste the whole line. {_ASK_AGAIN}"
        raise Unauthenticated("This service knows no such join token.", code=ErrorCode.JOIN_TOKEN_UNKNOWN, hint=hint)
    return row


async def join(session: AsyncSession, token: str, request: JoinRequest, *, version: str) -> ApiKey:
    """The key of the machine that was invited, from now on a worker's.

    The same request again, from whoever heard no answer, finds the key of the first time.

    Raises:
        Unauthenticated: the token is unknown, used by another or expired.
        InvalidRequest: the machine runs another version. The token is as good as before.
    """
    found = await require_known(session, token)
    row = await store.lock(session, found.id) or found
    if row.key_id is not None:
        earlier = await session.get(ApiKey, row.key_id)
        if earlier is not None and earlier.key_sha256 == request.key_sha256:
            return earlier
    at = await now(session)
    _check_open(row, at=at)
    _check_version(request.version, version)
    key = await keys.add(
        session,
        name=row.name or request.name,
        role=KeyRole.WORKER,
        project=row.project,
        key_sha256=request.key_sha256,
        hint=request.key_hint,
    )
    row.used_at, row.key_id = at, key.id
    audit.record(session, Actor(key.id, key.name), Action.WORKER_JOINED, row.id, key=key.id, machine=request.name)
    return key


def status_of(row: Invitation, *, at: datetime) -> str:
    """`open`, `used` or `expired`."""
    if row.used_at is not None:
        return "used"
    return "expired" if row.expires_at <= at else "open"


def _check_open(row: Invitation, *, at: datetime) -> None:
    match status_of(row, at=at):
        case "used":
            message = "A worker has joined with this token already: each is for one machine, once."
            raise Unauthenticated(message, code=ErrorCode.JOIN_TOKEN_USED, hint=_ASK_AGAIN)
        case "expired":
            message = f"This join token expired at {row.expires_at:%Y-%m-%d %H:%M} UTC."
            raise Unauthenticated(message, code=ErrorCode.JOIN_TOKEN_EXPIRED, hint=_ASK_AGAIN)


def _check_version(theirs: str, ours: str) -> None:
    if theirs != ours:
        raise InvalidRequest(
            f"This machine has Tunesmith {theirs}, the service {ours}.",
            code=ErrorCode.VERSION_DIFFERS,
            param="version",
            hint="Paste the whole line: it installs the service's own package. The token is still good.",
        )
