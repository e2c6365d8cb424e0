"""What runs and their canaries measured, as corrections for the next prediction, by worker class and model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, Select, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import Attempt, Job, Model
from tunesmith.tuning.corrections import Corrections
from tunesmith.tuning.estimates.measured import LOOKED_BACK_RUNS, Measurement, corrections_from, measurement_of
from tunesmith.tuning.kernels import KERNEL_FIELDS
from tunesmith.tuning.state import Outcome
from tunesmith.tuning.words import Method

_LOOKED_AT = 1000  # attempts of the whole service, the newest: a bound that keeps the query short however old it is


@dataclass(frozen=True)
class MeasuredCorrections:
    """Corrections by (worker class, model)."""

    by_kind: Mapping[tuple[str, str], Mapping[Method, Corrections]] = field(default_factory=dict)

    def about(self, model: Model) -> dict[str, Mapping[Method, Corrections]]:
        """By worker class: what runs of this model, or of an adapter on it, measured there."""
        root = model.base_model or model.name
        return {worker_class: found for (worker_class, name), found in self.by_kind.items() if name == root}


NONE = MeasuredCorrections()


async def measured_corrections(session: AsyncSession, *, worker_class: str | None = None) -> MeasuredCorrections:
    """From the newest runs that succeeded and the newest canaries, on machines of one class or on all."""
    runs: dict[tuple[str, str], list[Measurement]] = {}
    for row in await session.execute(_query(worker_class)):
        runs.setdefault((row.worker_class, row.model), []).extend(_measured(row))
    return MeasuredCorrections({kind: corrections_from(group) for kind, group in runs.items()})


def _measured(row: Row[Any]) -> Iterator[Measurement]:
    """The run, and its canary where there was no whole run to measure it better."""
    if row.succeeded:
        run = measurement_of(row.plan, row.result)
        if row.epoch > 1:  # its speed is that of several attempts, perhaps on other machines
            run = run.model_copy(update={"tokens_per_second": None})
        yield run
    if row.canary is not None and (row.epoch > 1 or not row.succeeded):
        yield measurement_of(row.plan, row.canary, is_canary=True)


def _query(worker_class: str | None) -> Select[Any]:
    """The newest successes and the newest other canaries of each kind, as many as are looked at, the newest first."""
    newest = select(Attempt.id).order_by(Attempt.id.desc()).limit(_LOOKED_AT).subquery()
    root = func.coalesce(Model.base_model, Model.name)
    succeeded = and_(Attempt.outcome.is_not_distinct_from(Outcome.SUCCEEDED), Attempt.result.is_not(None))
    kernels = (Attempt.plan[name].astext for name in ("method", *KERNEL_FIELDS))
    kind = (Attempt.worker_class, root, succeeded, *kernels)
    place = func.row_number().over(partition_by=kind, order_by=Attempt.id.desc()).label("place")
    measured = (
        select(Attempt.id, Attempt.worker_class, Attempt.epoch, Attempt.plan, Attempt.result, Attempt.canary)
        .add_columns(root.label("model"), succeeded.label("succeeded"), place)
        .join(newest, newest.c.id == Attempt.id)
        .join(Job, Job.id == Attempt.job_id)
        .join(Model, Model.name == Job.spec["model"].astext)
        .where(or_(succeeded, Attempt.canary.is_not(None)))
    )
    if worker_class is not None:
        measured = measured.where(Attempt.worker_class == worker_class)
    runs = measured.subquery()
    return select(runs).where(runs.c.place <= LOOKED_BACK_RUNS).order_by(runs.c.id.desc())
