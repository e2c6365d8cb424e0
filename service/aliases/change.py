"""Changing what an alias stands for: changes come one after another, and each leaves a line of history."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.aliases import store
from tunesmith.service.aliases.names import check_alias, is_alias
from tunesmith.service.database.tables import Alias, AliasChange
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest, Outdated
from tunesmith.tuning.words import AliasAction


class Anything:
    """That an alias may be changed whatever it stands for."""


ANYTHING: Final = Anything()
Expected = str | None | Anything


@dataclass(frozen=True)
class Author:
    """Who changes an alias and why; `firing_id` when a schedule does it in the name of the key."""

    project: str
    api_key_id: str
    reason: str | None
    firing_id: str | None = None


async def set_alias(
    session: AsyncSession, name: str, model: str, *, author: Author, expected: Expected = ANYTHING
) -> Alias:
    """Let the alias stand for this model; that it already does is no change.

    Raises:
        InvalidRequest: no alias may be called so, or there is no such model, or it is itself an alias.
        Outdated: the alias does not stand for what is expected.
    """
    check_alias(name, param="name")
    await _refuse_alias(session, model, project=author.project)
    await store.lock_model(session, model, project=author.project)
    alias = await store.lock(session, name, project=author.project)
    _check_expected(alias, expected)
    if alias.model != model:
        await _change(session, alias, "set", model=model, author=author)
    return alias


async def roll_back(session: AsyncSession, name: str, *, author: Author, expected: Expected = ANYTHING) -> Alias:
    """Let the alias stand for what it stood for before. Done again, it goes one further back.

    Raises:
        NotFound: the alias stands for nothing.
        Outdated: it does not stand for what is expected.
        InvalidRequest: there was nothing before, or all of it has been deleted.
    """
    await store.find(session, name, project=author.project)
    alias = await store.lock(session, name, project=author.project)
    _check_expected(alias, expected)
    earlier = _earlier(await store.find_actions(session, name, project=author.project))
    if earlier is None:
        message = f"{name} stood for no other model before {alias.model}, or for none that still exists."
        hint = f"Set it to a model that exists: PUT /v1/aliases/{name}."
        raise InvalidRequest(message, code=ErrorCode.NO_EARLIER_MODEL, param="name", hint=hint)
    await store.lock_model(session, earlier, project=author.project)
    await _change(session, alias, "roll_back", model=earlier, author=author)
    return alias


async def delete(session: AsyncSession, name: str, *, author: Author) -> None:
    """Let the alias stand for nothing. Its history stays.

    Raises:
        NotFound: it already does.
    """
    await store.find(session, name, project=author.project)
    alias = await store.lock(session, name, project=author.project)
    if alias.model is None:
        raise store.no_such_alias(name)
    await _change(session, alias, "delete", model=None, author=author)


def _earlier(actions: Iterable[Row[AliasAction, str | None, bool]]) -> str | None:
    """What to go back to: models pile up as they are set, and going back takes one off."""
    pile: list[tuple[str, bool]] = []
    for action, model, exists in actions:
        if action == "roll_back":
            while pile and pile[-1][0] != model:
                pile.pop()
        elif model is not None:
            pile.append((model, exists))
    now = pile[-1][0] if pile else None
    return next((model for model, exists in reversed(pile[:-1]) if exists and model != now), None)


async def _refuse_alias(session: AsyncSession, model: str, *, project: str) -> None:
    if not is_alias(model):
        return
    meant = await store.model_of(session, model, project=project)
    raise InvalidRequest(
        f"{model!r:.140} is an alias, and an alias stands for a model.",
        code=ErrorCode.ALIAS_OF_ALIAS,
        param="model",
        hint=f"It stands for {meant}: name that." if meant else "It stands for nothing here: name a model.",
    )


def _check_expected(alias: Alias, expected: Expected) -> None:
    if isinstance(expected, Anything) or alias.model == expected:
        return
    raise Outdated(
        f"{alias.name} stands for {alias.model or 'nothing'} now, not for {expected or 'nothing'}.",
        code=ErrorCode.ALIAS_CHANGED,
        param="expected",
        hint="Compare with what it stands for now, and send that as `expected`.",
    )


async def _change(
    session: AsyncSession, alias: Alias, action: AliasAction, *, model: str | None, author: Author
) -> None:
    alias.changes += 1
    session.add(
        AliasChange(
            project=alias.project,
            alias=alias.name,
            number=alias.changes,
            action=action,
            model=model,
            previous_model=alias.model,
            reason=author.reason,
            api_key_id=author.api_key_id,
            firing_id=author.firing_id,
        )
    )
    alias.model = model
    await store.touch(session, alias)
    await session.flush()
