"""Queries about what runs measured."""

from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, bindparam, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import Attempt, Job, Model
from tunesmith.tuning.estimates.measured import LOOKED_BACK_RUNS
from tunesmith.tuning.kernels import KERNEL_FIELDS
from tunesmith.tuning.state import Outcome
from tunesmith.tuning.words import JobKind

_LOOKED_AT = 1000  # attempts of the whole service, the newest: a bound that keeps the query short however old it is


async def find_newest_measured(session: AsyncSession, *, worker_class: str | None) -> list[Row[Any]]:
    """The newest successes and the newest other canaries of each kind, as many as are looked at, the newest first.

    A row has `worker_class`, `model` (of an adapter, the base under it), `epoch`, `plan`, `result`, `canary` and
    `succeeded`. Without `worker_class` it is about machines of all classes.
    """
    query = _NEWEST_MEASURED if worker_class is None else _NEWEST_MEASURED_OF_CLASS
    return list(await session.execute(query, {} if worker_class is None else {"of_class": worker_class}))


def _newest_measured(*among: ColumnElement[bool]) -> Select[Any]:
    newest = select(Attempt.id).order_by(Attempt.id.desc()).limit(_LOOKED_AT).subquery()
    root = func.coalesce(Model.base_model, Model.name)
    succeeded = and_(Attempt.outcome.is_not_distinct_from(Outcome.SUCCEEDED), Attempt.result.is_not(None))
    kind = (Attempt.worker_class, root, succeeded, *(Attempt.plan[name].astext for name in ("method", *KERNEL_FIELDS)))
    place = func.row_number().over(partition_by=kind, order_by=Attempt.id.desc()).label("place")
    measured = (
        select(Attempt.id, Attempt.worker_class, Attempt.epoch, Attempt.plan, Attempt.result, Attempt.canary)
        .add_columns(root.label("model"), succeeded.label("succeeded"), place)
        .join(newest, newest.c.id == Attempt.id)
        .join(Job, Job.id == Attempt.job_id)
        .join(Model, Model.name == Job.spec["model"].astext)
        .where(or_(succeeded, Attempt.canary.is_not(None)), Job.kind == JobKind.TRAINING, *among)
    )
    runs = measured.subquery()
    return select(runs).where(runs.c.place <= LOOKED_BACK_RUNS).order_by(runs.c.id.desc())


_NEWEST_MEASURED = _newest_measured()  # built once: building takes longer than asking
_NEWEST_MEASURED_OF_CLASS = _newest_measured(Attempt.worker_class == bindparam("of_class"))
