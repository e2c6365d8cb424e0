"""Queries about results and firings that nobody needs any more."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import BigInteger, ColumnElement, and_, cast, delete, func, not_, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from tunesmith.service.database.tables import Alias, AliasChange, Firing, Job, Model, Schedule
from tunesmith.tuning.words import UNDECIDED, UNDER_WAY

KEPT_CHANGES = 10  # of an alias: rolling back so often finds a model
SHOWN_FIRINGS = 20  # of a schedule: a page of its history


async def find_old(session: AsyncSession, *, limit: int) -> Sequence[str]:
    """Names of models that are not among the newest of their schedule and that nothing needs, the oldest first."""
    query = select(Model.name).where(_is_old(), not_(_is_needed())).order_by(Model.created_at).limit(limit)
    return (await session.execute(query)).scalars().all()


async def prune_firings(session: AsyncSession, *, older_than: timedelta, limit: int = 1000) -> int:
    """Forget firings that ended so long ago, and return how many.

    Of each schedule there stay the newest, the newest with a verdict, the one that the next is compared with, and every
    one whose model is still there.
    """
    old = (
        select(Firing.id)
        .where(
            Firing.due_at < func.now() - older_than,
            Firing.state.not_in((*UNDECIDED, *UNDER_WAY)),
            Firing.due_at < _oldest_shown(with_verdict=False),
            or_(Firing.verdict.is_(None), Firing.due_at < _oldest_shown(with_verdict=True)),
            not_(_is_compared_with()),
            not_(select(Model.name).where(Model.name == Firing.model).exists()),
        )
        .order_by(Firing.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    ids = (await session.execute(old)).scalars().all()
    await session.execute(delete(Firing).where(Firing.id.in_(ids)).execution_options(synchronize_session=False))
    return len(ids)


async def lock_if_unneeded(session: AsyncSession, name: str) -> Model | None:
    """The model, locked against everybody who might begin to need it; None if somebody does or has it locked."""
    found = select(Model).where(Model.name == name).with_for_update(skip_locked=True)
    model = (await session.execute(found)).scalar_one_or_none()
    still = select(Model.name).where(Model.name == name, _is_old(), not_(_is_needed()))
    is_unneeded = (await session.execute(still)).first() is not None
    return model if is_unneeded else None


def _is_old() -> ColumnElement[bool]:
    """As many newer results of the same schedule exist as it keeps."""
    mine, newer, others = aliased(Firing), aliased(Firing), aliased(Model)
    count = (
        select(func.count())
        .select_from(newer)
        .join(others, others.name == newer.model)
        .where(newer.schedule_id == mine.schedule_id, newer.due_at > mine.due_at)
        .scalar_subquery()
    )
    kept = cast(Schedule.settings["keep_results"].astext, BigInteger)
    return (
        select(mine.id)
        .join(Schedule, Schedule.id == mine.schedule_id)
        .where(mine.model == Model.name, kept <= count)
        .correlate(Model)
        .exists()
    )


def _is_needed() -> ColumnElement[bool]:
    on_it = aliased(Model)
    lately = and_(AliasChange.model == Model.name, AliasChange.number > Alias.changes - KEPT_CHANGES)
    same = and_(Alias.project == AliasChange.project, Alias.name == AliasChange.alias)
    living = Schedule.deleted_at.is_(None)
    return or_(
        select(Alias.name).where(Alias.model == Model.name).exists(),
        select(AliasChange.number).join(Alias, same).where(lately).correlate(Model).exists(),
        select(Job.id).where(Job.spec["model"].astext == Model.name, Job.finished_at.is_(None)).exists(),
        select(on_it.name).where(on_it.base_model == Model.name).exists(),
        select(Schedule.id).where(Schedule.settings["job"]["model"].astext == Model.name, living).exists(),
        select(Firing.id).where(Firing.model == Model.name, Firing.state.in_(UNDER_WAY)).exists(),
    )


def _oldest_shown(*, with_verdict: bool) -> ColumnElement[datetime]:
    """Due time of the oldest firing that a page of the schedule's history shows; null where all are shown."""
    shown = aliased(Firing)
    which = [shown.verdict.is_not(None)] if with_verdict else []
    return (
        select(shown.due_at)
        .where(shown.schedule_id == Firing.schedule_id, *which)
        .order_by(shown.due_at.desc())
        .offset(SHOWN_FIRINGS - 1)
        .limit(1)
        .correlate(Firing)
        .scalar_subquery()
    )


def _is_compared_with() -> ColumnElement[bool]:
    """Whether no later firing of the schedule has a job: the next due time asks what has changed since this one."""
    later = aliased(Firing)
    newer = and_(later.schedule_id == Firing.schedule_id, later.due_at > Firing.due_at, later.job_id.is_not(None))
    return and_(Firing.job_id.is_not(None), not_(select(later.id).where(newer).correlate(Firing).exists()))
