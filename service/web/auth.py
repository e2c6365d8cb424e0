"""Who is calling: an API key in the `Authorization` header, which has a project and a role."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import structlog
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from tunesmith.service.audit.actions import Actor
from tunesmith.service.keys.cache import KeyCache
from tunesmith.tuning.errors import Forbidden, Unauthenticated

READERS = ("reader", "member", "admin")  # the roles that see what belongs to their project
_WRITERS = ("member", "admin")
_SCHEME = HTTPBearer(
    scheme_name="bearer",
    description="A key as `tunesmith-service keys create` or `tunesmith env` prints it.",
    auto_error=False,  # `bearer` reads the header and says what is wrong with it: this one is for the document
)


@dataclass(frozen=True)
class Caller:
    """A valid key. Objects of other projects do not exist for it. Keys of one `lineage` replaced one another."""

    key_id: str
    project: str
    role: str
    name: str
    lineage: str

    @property
    def actor(self) -> Actor:
        """The caller as the audit log names it."""
        return Actor(self.key_id, self.name)


def bearer(request: Request) -> str:
    """The token of the `Authorization` header.

    Raises:
        Unauthenticated: there is none.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated(
            "You didn't provide an API key.", hint="Send it as 'Authorization: Bearer <key>'; `keys create` makes one."
        )
    return token.strip()


async def authenticate(
    request: Request, _documented: Annotated[HTTPAuthorizationCredentials | None, Depends(_SCHEME)]
) -> Caller:
    """Whose key it is. One that was revoked by another process is refused within `keys.cache.KEPT_SECONDS`.

    Raises:
        Unauthenticated: the key is unknown, revoked or expired.
    """
    keys: KeyCache = request.app.state.keys
    found = await keys.find(bearer(request))
    if found is None:
        raise _refusal(await keys.ended_at(bearer(request)))
    structlog.contextvars.bind_contextvars(project=found.project)
    return Caller(key_id=found.id, project=found.project, role=found.role, name=found.name, lineage=found.lineage)


def _refusal(ended_at: datetime | None) -> Unauthenticated:
    """Only who holds the key learns that there was one."""
    if ended_at is None:
        return Unauthenticated("Incorrect API key provided.")
    return Unauthenticated(
        f"This API key ended at {ended_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC.",
        hint="Ask an admin for another: `tunesmith-service keys create`, or POST /v1/keys.",
    )


async def while_valid(request: Request, pieces: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    """A stream, which ends before its next piece once the key that asked for it opens nothing more."""
    keys: KeyCache = request.app.state.keys
    async with aclosing(pieces):
        async for piece in pieces:
            if await keys.find(bearer(request)) is None:
                return
            yield piece


AnyCaller = Annotated[Caller, Depends(authenticate)]


async def _member(request: Request, caller: AnyCaller) -> Caller:
    return _require(caller, *(READERS if request.method in ("GET", "HEAD") else _WRITERS))


async def _admin(caller: AnyCaller) -> Caller:
    return _require(caller, "admin")


async def _worker(caller: AnyCaller) -> Caller:
    return _require(caller, "worker")


def _require(caller: Caller, *roles: str) -> Caller:
    if caller.role not in roles:
        raise Forbidden(f"A key of role {caller.role!r} may not do this; it takes {' or '.join(roles)}.")
    return caller


MemberKey = Annotated[Caller, Depends(_member)]
AdminKey = Annotated[Caller, Depends(_admin)]
WorkerKey = Annotated[Caller, Depends(_worker)]
