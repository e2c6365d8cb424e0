"""Who is calling: an API key in the `Authorization` header, which has a project and a role."""

from dataclasses import dataclass
from typing import Annotated

import structlog
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from tunesmith.service.database.transactions import Database
from tunesmith.service.keys import secrets, store
from tunesmith.tuning.errors import Forbidden, Unauthenticated

_SCHEME = HTTPBearer(
    scheme_name="bearer",
    description="A key as `tunesmith-service keys create` or `tunesmith env` prints it.",
    auto_error=False,  # `bearer` reads the header and says what is wrong with it: this one is for the document
)


@dataclass(frozen=True)
class Caller:
    """A valid key. Objects of other projects do not exist for it."""

    key_id: str
    project: str
    role: str


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
    """Look the key up in a transaction of its own, so that a revoked key is refused at once.

    Raises:
        Unauthenticated: the key is unknown or revoked.
    """
    key = bearer(request)
    database: Database = request.app.state.database
    async with database.transaction() as session:
        row = await store.find(session, key)
        if row is None or not secrets.matches(key, row.key_sha256):
            raise Unauthenticated("Incorrect API key provided.")
        if request.method != "GET" or row.last_used_at is None:
            await store.touch(session, row)
    structlog.contextvars.bind_contextvars(project=row.project)
    return Caller(key_id=row.id, project=row.project, role=row.role)


AnyCaller = Annotated[Caller, Depends(authenticate)]


def _member(caller: AnyCaller) -> Caller:
    return _require(caller, "member", "admin")


def _admin(caller: AnyCaller) -> Caller:
    return _require(caller, "admin")


def _worker(caller: AnyCaller) -> Caller:
    return _require(caller, "worker")


def _require(caller: Caller, *roles: str) -> Caller:
    if caller.role not in roles:
        raise Forbidden(f"A key of role {caller.role!r} may not do this; it takes {' or '.join(roles)}.")
    return caller


MemberKey = Annotated[Caller, Depends(_member)]
AdminKey = Annotated[Caller, Depends(_admin)]
WorkerKey = Annotated[Caller, Depends(_worker)]
