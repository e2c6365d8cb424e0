"""Queries about aliases and their histories."""

import difflib
from collections.abc import Sequence

from sqlalchemy import Row, func, or_, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import Alias, AliasChange, ApiKey, Model
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest, NotFound
from tunesmith.tuning.words import AliasAction


async def find(session: AsyncSession, name: str, *, project: str) -> Alias:
    """The alias, which stands for a model.

    Raises:
        NotFound: there is none, or it stands for nothing any more.
    """
    alias = await session.get(Alias, (project, name))
    if alias is None or alias.model is None:
        raise no_such_alias(name)
    return alias


async def model_of(session: AsyncSession, name: str, *, project: str) -> str | None:
    """What the alias stands for."""
    query = select(Alias.model).where(Alias.project == project, Alias.name == name)
    return (await session.execute(query)).scalar_one_or_none()


async def lock(session: AsyncSession, name: str, *, project: str) -> Alias:
    """The row of that name, made when it is missing: changes of one alias come one after another."""
    new = insert(Alias).values(project=project, name=name)
    await session.execute(new.on_conflict_do_nothing())
    query = select(Alias).where(Alias.project == project, Alias.name == name)
    locked = query.with_for_update(key_share=True).execution_options(populate_existing=True)
    return (await session.execute(locked)).scalar_one()


async def lock_model(session: AsyncSession, name: str, *, project: str) -> None:
    """Keep the model from being deleted until the transaction ends.

    Raises:
        InvalidRequest: the project sees no such model, or not all of its files have come.
    """
    visible = or_(Model.project.is_(None), Model.project == project)
    query = select(Model.status).where(Model.name == name, visible).with_for_update(read=True, key_share=True)
    status = (await session.execute(query)).scalar_one_or_none()
    if status is None:
        message = f"The model {name!r:.140} does not exist."
        raise InvalidRequest(message, code=ErrorCode.MODEL_NOT_FOUND, param="model", hint="List them: GET /v1/models.")
    if status != "ready":
        message = f"Of the model {name!r} no weights are registered: an alias cannot stand for it."
        raise InvalidRequest(message, code=ErrorCode.MODEL_NOT_READY, param="model", hint="Register its weights first.")


async def find_many(session: AsyncSession, *, project: str) -> Sequence[Alias]:
    """Every alias that stands for a model, by name."""
    query = select(Alias).where(Alias.project == project, Alias.model.is_not(None)).order_by(Alias.name)
    return (await session.execute(query)).scalars().all()


async def find_by_keys(session: AsyncSession, keys: Sequence[tuple[str, str]]) -> Sequence[Alias]:
    """Those of these projects and names that stand for a model."""
    query = select(Alias).where(tuple_(Alias.project, Alias.name).in_(keys), Alias.model.is_not(None))
    return (await session.execute(query)).scalars().all()


async def find_pointing_at(session: AsyncSession, model: str) -> Sequence[str]:
    """Names of the aliases, of all projects, that stand for the model."""
    query = select(Alias.name).where(Alias.model == model).order_by(Alias.name)
    return (await session.execute(query)).scalars().all()


async def find_changes(
    session: AsyncSession, name: str, *, project: str, limit: int
) -> Sequence[Row[AliasChange, str]]:
    """The newest changes of the alias, newest first, each with the name of the key that made it.

    Raises:
        NotFound: it has never stood for anything.
    """
    query = (
        select(AliasChange, ApiKey.name)
        .join(ApiKey, ApiKey.id == AliasChange.api_key_id)
        .where(AliasChange.project == project, AliasChange.alias == name)
        .order_by(AliasChange.number.desc())
        .limit(limit)
    )
    found = (await session.execute(query)).all()
    if not found:
        raise no_such_alias(name)
    return found


async def find_actions(
    session: AsyncSession, name: str, *, project: str
) -> Sequence[Row[AliasAction, str | None, bool]]:
    """`action`, `model` and `exists` of every change, the oldest first."""
    exists = select(Model.name).where(Model.name == AliasChange.model).exists().label("exists")
    query = (
        select(AliasChange.action, AliasChange.model, exists)
        .where(AliasChange.project == project, AliasChange.alias == name)
        .order_by(AliasChange.number)
    )
    return (await session.execute(query)).all()  # type: ignore[return-value]


async def near(session: AsyncSession, name: str, *, project: str) -> str | None:
    """A hint that names aliases of the project with similar names."""
    query = select(Alias.name).where(Alias.project == project, Alias.model.is_not(None)).limit(1000)
    known = (await session.execute(query)).scalars().all()
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"Did you mean {', '.join(close)}?" if close else f"Set it first: PUT /v1/aliases/{name}."


def no_such_alias(name: str) -> NotFound:
    """The error for an alias that stands for nothing."""
    return NotFound(f"The alias {name!r:.140} stands for no model.", code=ErrorCode.ALIAS_NOT_FOUND, param="name")


async def touch(session: AsyncSession, alias: Alias) -> None:
    """The alias has changed now."""
    alias.updated_at = (await session.execute(select(func.now()))).scalar_one()
