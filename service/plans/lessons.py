"""What finished runs measured, as corrections for the next prediction, by worker class and model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.tables import Attempt, Job, Model
from tuning.candidates import Corrections
from tuning.job import Method
from tuning.measured import LATEST_RUNS, Run, corrections_from, run_of
from tuning.state import Outcome

_LOOKED_AT = 1000  # attempts of the whole service, the newest: a bound that keeps the query short however old it is


@dataclass(frozen=True)
class Lessons:
    """Corrections by (worker class, model)."""

    by_kind: Mapping[tuple[str, str], Mapping[Method, Corrections]] = field(default_factory=dict)

    def about(self, model: Model) -> dict[str, Mapping[Method, Corrections]]:
        """By worker class: what runs of this model, or of an adapter on it, measured there."""
        root = model.base_model or model.name
        return {worker_class: found for (worker_class, name), found in self.by_kind.items() if name == root}


NONE = Lessons()


async def learn(session: AsyncSession, *, worker_class: str | None = None) -> Lessons:
    """From the newest runs that succeeded, on machines of one class or on all."""
    runs: dict[tuple[str, str], list[Run]] = {}
    for row in await session.execute(_query(worker_class)):
        run = run_of(row.plan, row.result)
        if row.epoch > 1:  # its speed is that of several attempts, perhaps on other machines
            run = run.model_copy(update={"tokens_per_second": None})
        runs.setdefault((row.worker_class, row.model), []).append(run)
    return Lessons({kind: corrections_from(group) for kind, group in runs.items()})


def _query(worker_class: str | None) -> Select[Any]:
    """The newest few successes of each kind, the newest first."""
    newest = select(Attempt.id).order_by(Attempt.id.desc()).limit(_LOOKED_AT).subquery()
    root = func.coalesce(Model.base_model, Model.name)
    kind = (Attempt.worker_class, root, Attempt.plan["method"].astext)
    place = func.row_number().over(partition_by=kind, order_by=Attempt.id.desc()).label("place")
    ended = (
        select(Attempt.id, Attempt.worker_class, Attempt.epoch, Attempt.plan, Attempt.result)
        .add_columns(root.label("model"), place)
        .join(newest, newest.c.id == Attempt.id)
        .join(Job, Job.id == Attempt.job_id)
        .join(Model, Model.name == Job.spec["model"].astext)
        .where(Attempt.outcome == Outcome.SUCCEEDED, Attempt.result.is_not(None))
    )
    if worker_class is not None:
        ended = ended.where(Attempt.worker_class == worker_class)
    runs = ended.subquery()
    return select(runs).where(runs.c.place <= LATEST_RUNS).order_by(runs.c.id.desc())
