"""Queries about what runs measured."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from sqlalchemy import ARRAY, Integer, Row, Text, and_, bindparam, case, column, func, select, text, true
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import MEASURED, Attempt, Job, Model
from tunesmith.tuning.estimates.measured import LOOKED_BACK_RUNS
from tunesmith.tuning.kernels import KERNEL_FIELDS
from tunesmith.tuning.state import Outcome
from tunesmith.tuning.words import JobKind

_LOOKED_AT = 1000  # attempts that measured something, the newest: a bound that keeps the query short


class MeasuredAttempt(NamedTuple):
    """An attempt that measured something, and what: its canary comes first, its end makes it another one."""

    id: str
    succeeded: bool
    has_canary: bool


async def find_measured_version(session: AsyncSession) -> str:
    """The same as long as the newest attempts that measured something are the same ones. No plan is read for it."""
    version: str = (await session.execute(_VERSION)).scalar_one()
    return version


async def find_newest_measured(session: AsyncSession) -> list[MeasuredAttempt]:
    """The newest successes and the newest other canaries of each kind, as many as are looked at, the newest first."""
    return [MeasuredAttempt(*row) for row in await session.execute(_NEWEST)]


async def find_measurements(session: AsyncSession, attempt_ids: Collection[str]) -> Mapping[str, Row[Any]]:
    """`worker_class`, `model` (of an adapter, the base under it), `epoch`, `plan`, `result` and `canary`, by id."""
    return {row.id: row for row in await session.execute(_MEASURED, {"ids": list(attempt_ids)})}


# Built once: building a query takes longer than asking it.
_succeeded = and_(Attempt.outcome.is_not_distinct_from(Outcome.SUCCEEDED), Attempt.result.is_not(None))
_has_canary = Attempt.canary.is_not(None)
_root = func.coalesce(Model.base_model, Model.name)
# Only those that measured something, or the version would change with each attempt that begins.
_newest = (
    select(Attempt.id, _succeeded.label("succeeded"), _has_canary.label("has_canary"))
    .where(text(MEASURED))
    .order_by(Attempt.id.desc())
    .limit(_LOOKED_AT)
    .subquery()
)
_flags = case((_newest.c.succeeded, 2), else_=0) + case((_newest.c.has_canary, 1), else_=0)
_VERSION = select(func.concat(func.count(), " ", func.sum(func.hashtextextended(_newest.c.id, _flags.cast(Integer)))))

# A plan is read whole whichever of its fields is wanted: once for all of them.
_numbers = (
    func.jsonb_to_record(Attempt.plan)
    .table_valued(*(column(name, Text) for name in ("method", *KERNEL_FIELDS)))
    .render_derived(with_types=True)
)
_kind = (Attempt.worker_class, _root, _newest.c.succeeded, *_numbers.columns)
_place = func.row_number().over(partition_by=_kind, order_by=Attempt.id.desc()).label("place")
_placed = (
    select(_newest, _place)
    .join(Attempt, Attempt.id == _newest.c.id)
    .join(Job, Job.id == Attempt.job_id)
    .join(Model, Model.name == Job.spec["model"].astext)
    .join(_numbers, true())
    .where(Job.kind == JobKind.TRAINING)
    .subquery()
)
_NEWEST = (
    select(_placed.c.id, _placed.c.succeeded, _placed.c.has_canary)
    .where(_placed.c.place <= LOOKED_BACK_RUNS)
    .order_by(_placed.c.id.desc())
)
_MEASURED = (
    select(Attempt.id, Attempt.worker_class, _root.label("model"))
    .add_columns(Attempt.epoch, Attempt.plan, Attempt.result, Attempt.canary)
    .join(Job, Job.id == Attempt.job_id)
    .join(Model, Model.name == Job.spec["model"].astext)
    .where(Attempt.id == func.any(bindparam("ids", type_=ARRAY(Text))))
)
