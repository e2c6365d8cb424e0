"""`/v1/aliases`: what names stand for, setting one, going back, and who changed what and why."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from sqlalchemy import Row

from tunesmith.service.aliases import change, store
from tunesmith.service.aliases.change import ANYTHING, Author
from tunesmith.service.aliases.schemas import RollBackAlias, SetAlias
from tunesmith.service.database.tables import Alias, AliasChange
from tunesmith.service.web.auth import MemberKey
from tunesmith.service.web.bodies import documented, json_body
from tunesmith.service.web.dependencies import DbSession
from tunesmith.service.web.etags import NOT_MODIFIED, IfNoneMatch, tagged
from tunesmith.service.web.openapi import error_response
from tunesmith.service.web.parameters import AT_MOST
from tunesmith.tuning.api.lists import Deleted
from tunesmith.tuning.api.nightly.aliases import AliasChangeList, AliasChangeObject, AliasList, AliasObject

router = APIRouter(prefix="/v1/aliases", tags=["aliases"])

AliasName = Annotated[str, Path(description="The alias, as in `ft:support@prod`.")]
_CHANGED = error_response(409, "The alias does not stand for what is expected; the message says for what it does.")


@router.get("", response_model=AliasList, responses=NOT_MODIFIED)
async def list_aliases(caller: MemberKey, session: DbSession, if_none_match: IfNoneMatch = None) -> Response:
    """Every alias of the project that stands for a model."""
    found = await store.find_many(session, project=caller.project)
    return tagged(AliasList(data=[_alias_object(alias) for alias in found]), known=if_none_match)


@router.get("/{name}", response_model=AliasObject, responses=NOT_MODIFIED)
async def retrieve_alias(
    name: AliasName, caller: MemberKey, session: DbSession, if_none_match: IfNoneMatch = None
) -> Response:
    """One alias."""
    return tagged(_alias_object(await store.find(session, name, project=caller.project)), known=if_none_match)


@router.put("/{name}", openapi_extra=documented(SetAlias), responses=_CHANGED)
async def set_alias(
    name: AliasName, caller: MemberKey, request: Annotated[SetAlias, json_body(SetAlias)], session: DbSession
) -> AliasObject:
    """Let the alias stand for a model, at once and everywhere. With `expected`, only if nobody else was quicker."""
    author = Author(caller.project, caller.key_id, reason=request.reason)
    expected = request.expected if request.has_expectation else ANYTHING
    return _alias_object(await change.set_alias(session, name, request.model, author=author, expected=expected))


@router.post("/{name}/roll_back", openapi_extra=documented(RollBackAlias), responses=_CHANGED)
async def roll_back_alias(
    name: AliasName, caller: MemberKey, request: Annotated[RollBackAlias, json_body(RollBackAlias)], session: DbSession
) -> AliasObject:
    """Let the alias stand for what it stood for before. Done again, it goes one further back."""
    author = Author(caller.project, caller.key_id, reason=request.reason)
    expected = request.expected or ANYTHING
    return _alias_object(await change.roll_back(session, name, author=author, expected=expected))


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
    return AliasChangeList(data=_changes(await store.find_changes(session, name, project=caller.project, limit=limit)))


def _changes(found: Sequence[Row[AliasChange, str]]) -> list[AliasChangeObject]:
    return [_change_object(*row) for row in found]


def _alias_object(alias: Alias) -> AliasObject:
    return AliasObject(
        id=alias.name, model=str(alias.model), changes=alias.changes, updated_at=int(alias.updated_at.timestamp())
    )


def _change_object(changed: AliasChange, key_name: str, *_: Any) -> AliasChangeObject:
    return AliasChangeObject(
        number=changed.number,
        action=changed.action,
        model=changed.model,
        previous_model=changed.previous_model,
        reason=changed.reason,
        by=key_name,
        firing_id=changed.firing_id,
        created_at=int(changed.created_at.timestamp()),
    )
