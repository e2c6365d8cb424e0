"""`/v1/workers/invitations` for admins; `/internal/package` and `/internal/join` for whoever has a token."""

import asyncio
import binascii
from base64 import b64decode
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response

from tunesmith.service.database.access_tables import Invitation
from tunesmith.service.database.transactions import now
from tunesmith.service.joining import invitations, store
from tunesmith.service.joining.package import CONSTRAINTS, Wheel, own_constraints, own_wheel
from tunesmith.service.joining.schemas import InvitationCreate
from tunesmith.service.web.auth import AdminKey, WorkerKey, bearer
from tunesmith.service.web.bodies import documented, json_body
from tunesmith.service.web.dependencies import DatabaseDep, DbSession, SettingsDep
from tunesmith.service.web.errors import UnknownUrl
from tunesmith.tuning.api.access.invitations import InvitationList, InvitationObject, NewInvitation
from tunesmith.tuning.messages import Greeting, GreetingAnswer, JoinAnswer, JoinRequest

router = APIRouter(prefix="/v1/workers/invitations", tags=["workers"])
internal_router = APIRouter(prefix="/internal", include_in_schema=False)

_WHEEL = "application/octet-stream"


async def _token(request: Request) -> str:
    """A join token as bearer, or as the password that pip sends for an address with one."""
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return bearer(request)
    try:
        return b64decode(sent, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


async def _known(token: Annotated[str, Depends(_token)], database: DatabaseDep) -> str:
    """A token of this service, open or not: whoever asks again with a used one may have heard no answer."""
    async with database.transaction() as session:
        await invitations.require_known(session, token)
    return token


async def _invited(token: Annotated[str, Depends(_token)], database: DatabaseDep) -> str:
    """A token of an open invitation, looked at in a transaction that ends before a body is read."""
    async with database.transaction() as session:
        await invitations.require_open(session, token)
    return token


@router.post("", openapi_extra=documented(InvitationCreate))
async def invite_worker(
    request: Request,
    *,
    caller: AdminKey,
    wanted: Annotated[InvitationCreate, json_body(InvitationCreate)],
    session: DbSession,
    settings: SettingsDep,
) -> NewInvitation:
    """Invite a machine to be a worker. The answer has the token, and nothing shows it again. Admins only."""
    lifetime = timedelta(seconds=wanted.expires_in_seconds)
    invited = await invitations.invite(
        session, name=wanted.name, lifetime=lifetime, project=caller.project, actor=caller.actor
    )
    wheel = await _wheel()
    return NewInvitation(
        **_facts(invited.row, at=await now(session)) | {"object": "tunesmith.new_invitation"},
        token=invited.token,
        url=settings.worker_url or (str(request.base_url).rstrip("/") if _answers_workers(request) else None),
        wheel=wheel.filename,
        wheel_sha256=wheel.sha256,
    )


@router.get("")
async def list_invitations(_caller: AdminKey, session: DbSession) -> InvitationList:
    """All invitations, newest first, without their tokens. Admins only."""
    at = await now(session)
    return InvitationList(data=[InvitationObject(**_facts(row, at=at)) for row in await store.every(session)])


@router.delete("/{invitation_id}")
async def withdraw_invitation(
    invitation_id: Annotated[str, Path(description="The invitation's id, `invite-...`.")],
    caller: AdminKey,
    session: DbSession,
) -> InvitationObject:
    """Withdraw an invitation. A worker that has joined keeps its key: revoke that by itself. Admins only."""
    row = await invitations.withdraw(session, invitation_id, actor=caller.actor)
    return InvitationObject(**_facts(row, at=await now(session)))


@internal_router.get("/package/{filename}")
async def send_package(filename: str, _token: Annotated[str, Depends(_invited)]) -> Response:
    """The package that this service runs, for pip on the machine that was invited; and its exact requirements."""
    if filename == CONSTRAINTS:
        return Response(await asyncio.to_thread(own_constraints), media_type="text/plain")
    wheel = await _wheel()
    if filename != wheel.filename:
        raise UnknownUrl(f"This service hands out {wheel.filename} and {CONSTRAINTS}, no {filename!r:.100}.")
    return Response(wheel.content, media_type=_WHEEL)


@internal_router.post("/join")
async def join(
    token: Annotated[str, Depends(_known)],
    request: Annotated[JoinRequest, json_body(JoinRequest, strict=False)],
    session: DbSession,
) -> JoinAnswer:
    """A machine that was invited has made a key, which is a worker's from now on."""
    key = await invitations.join(session, token, request, version=version("tunesmith"))
    return JoinAnswer(name=key.name, key_id=key.id, version=version("tunesmith"))


@internal_router.post("/greetings")
async def greet(
    _caller: WorkerKey, _greeting: Annotated[Greeting, json_body(Greeting, strict=False)], session: DbSession
) -> GreetingAnswer:
    """A worker looks whether address, key, version and clock are right before it looks at its machine."""
    return GreetingAnswer(version=version("tunesmith"), at=(await now(session)).timestamp())


def _answers_workers(request: Request) -> bool:
    return bool(request.app.state.routes == "all")


async def _wheel() -> Wheel:
    return await asyncio.to_thread(own_wheel)


def _facts(row: Invitation, *, at: datetime) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "status": invitations.status_of(row, at=at),
        "created_at": int(row.created_at.timestamp()),
        "expires_at": int(row.expires_at.timestamp()),
        "used_at": None if row.used_at is None else int(row.used_at.timestamp()),
        "key_id": row.key_id,
    }
