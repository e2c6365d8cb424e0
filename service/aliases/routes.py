"""`/v1/aliases`: what names stand for, setting one, going back, and who changed what and why."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from tunesmith.service.aliases import change, store
from tunesmith.service.aliases.change import ANYTHING, Author
from tunesmith.service.aliases.follow import AliasWatch
from tunesmith.service.aliases.schemas import RollBackAlias, SetAlias
from tunesmith.service.aliases.views import alias_object, change_object
from tunesmith.service.web.auth import MemberKey
from tunesmith.service.web.bodies import documented, json_body
from tunesmith.service.web.dependencies import DatabaseDep, DbSession
from tunesmith.service.web.etags import NOT_MODIFIED, IfNoneMatch, Wait, is_known_answer, tagged
from tunesmith.service.web.openapi import error_response
from tunesmith.service.web.parameters import AT_MOST
from tunesmith.tuning.api.lists import Deleted
from tunesmith.tuning.api.nightly.aliases import AliasChangeList, AliasList, AliasObject

router = APIRouter(prefix="/v1/aliases", tags=["aliases"])

AliasName = Annotated[str, Path(description="The alias, as in `ft:support@prod`.")]
_CHANGED = error_response(409, "The alias does not stand for what is expected; the message says for what it does.")
_TOO_MANY = error_response(429, "As many clients wait as this service takes.")


async def _alias_watch(request: Request) -> AliasWatch:
    return request.app.state.alias_watch  # type: ignore[no-any-return]


AliasWatchDep = Annotated[AliasWatch, Depends(_alias_watch)]


@router.get("", response_model=AliasList, responses=NOT_MODIFIED)
async def list_aliases(caller: MemberKey, session: DbSession, if_none_match: IfNoneMatch = None) -> Response:
    """Every alias of the project that stands for a model."""
    found = await store.find_many(session, project=caller.project)
    return tagged(AliasList(data=[alias_object(alias) for alias in found]), known=if_none_match)


@router.get("/{name}", response_model=AliasObject, responses=NOT_MODIFIED | _TOO_MANY)
async def retrieve_alias(
    name: AliasName,
    caller: MemberKey,
    *,
    database: DatabaseDep,
    watch: AliasWatchDep,
    if_none_match: IfNoneMatch = None,
    wait: Wait = 0,
) -> Response:
    """One alias. With `If-None-Match`, `wait` holds back that nothing has changed for up to so many seconds."""
    async with database.transaction() as session:
        seen = alias_object(await store.find(session, name, project=caller.project))
    if wait and is_known_answer(seen, if_none_match):
        found = await watch.next_change((caller.project, name), seen, seconds=wait)
        if found is None:
            raise store.no_such_alias(name)
        seen = found
    return tagged(seen, known=if_none_match)


@router.put("/{name}", openapi_extra=documented(SetAlias), responses=_CHANGED)
async def set_alias(
    name: AliasName, caller: MemberKey, request: Annotated[SetAlias, json_body(SetAlias)], session: DbSession
) -> AliasObject:
    """Let the alias stand for a model, at once and everywhere. With `expected`, only if nobody else was quicker."""
    author = Author(caller.project, caller.key_id, reason=request.reason)
    expected = request.expected if request.has_expectation else ANYTHING
    return alias_object(await change.set_alias(session, name, request.model, author=author, expected=expected))


@router.post("/{name}/roll_back", openapi_extra=documented(RollBackAlias), responses=_CHANGED)
async def roll_back_alias(
    name: AliasName, caller: MemberKey, request: Annotated[RollBackAlias, json_body(RollBackAlias)], session: DbSession
) -> AliasObject:
    """Let the alias stand for what it stood for before. Done again, it goes one further back."""
    author = Author(caller.project, caller.key_id, reason=request.reason)
    expected = request.expected or ANYTHING
    return alias_object(await change.roll_back(session, name, author=author, expected=expected))


@router.delete("/{name}")
async def delete_alias(name: AliasName, caller: MemberKey, session: DbSession) -> Deleted:
    """Let the alias stand for nothing. The model and the history stay."""
    await change.delete(session, name, author=Author(caller.project, caller.key_id, reason=None))
    return Deleted(id=name, object="alias")


@router.get("/{name}/history")
async def list_alias_changes(
    name: AliasName,
    caller: MemberKey,
    session: DbSession,
    limit: Annotated[int, Query(ge=1, le=1000, description=AT_MOST)] = 100,
) -> AliasChangeList:
    """Who let the alias stand for what, when and why, newest first; also of one that was deleted."""
    found = await store.find_changes(session, name, project=caller.project, limit=limit)
    return AliasChangeList(data=[change_object(changed, key_name=key_name) for changed, key_name in found])
