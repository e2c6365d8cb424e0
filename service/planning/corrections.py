"""What runs and their canaries measured, as corrections for the next prediction, by worker class and model."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import Job, Model
from tunesmith.service.planning import store
from tunesmith.service.planning.fit import PlanningQuery
from tunesmith.service.planning.store import MeasuredAttempt
from tunesmith.tuning.corrections import Corrections
from tunesmith.tuning.estimates.measured import Measurement, corrections_from, measurement_of
from tunesmith.tuning.words import Method

_KEPT_VERSIONS = 4  # transactions that began before an attempt ended may still see the one before


@dataclass(frozen=True)
class MeasuredCorrections:
    """Corrections by (worker class, model)."""

    by_kind: Mapping[tuple[str, str], Mapping[Method, Corrections]] = field(default_factory=dict)

    def about(self, model: Model) -> dict[str, Mapping[Method, Corrections]]:
        """By worker class: what runs of this model, or of an adapter on it, measured there."""
        root = model.base_model or model.name
        return {worker_class: found for (worker_class, name), found in self.by_kind.items() if name == root}

    def query_about(self, job: Job, model: Model) -> PlanningQuery:
        """What the planner is asked about a stored job, corrected by what is measured now."""
        return PlanningQuery.of(
            spec=job.spec,
            dataset=job.dataset,
            config=model.config,
            corrections=self.about(model),
            pinned=job.pinned_plan,
            files=model.files,
        )


@dataclass(frozen=True)
class _Measured:
    """What one attempt measured: a run, its canary, or both."""

    worker_class: str
    model: str
    measurements: Sequence[Measurement]


NONE = MeasuredCorrections()
# Of this process. Ids are never given twice, so that no two databases are mistaken for one another.
_corrections: "OrderedDict[str, MeasuredCorrections]" = OrderedDict()
_measured: dict[MeasuredAttempt, _Measured] = {}


async def measured_corrections(session: AsyncSession) -> MeasuredCorrections:
    """From the newest runs that succeeded and the newest canaries.

    Reading their plans takes a hundred times longer than seeing that they are still the newest, and this is asked at
    every submit and every claim: what was made of them is kept until there are others.
    """
    version = await store.find_measured_version(session)
    if version not in _corrections:
        _corrections[version] = await _read(session)
        while len(_corrections) > _KEPT_VERSIONS:
            _corrections.popitem(last=False)
    return _corrections[version]


async def _read(session: AsyncSession) -> MeasuredCorrections:
    newest = await store.find_newest_measured(session)
    unknown = [attempt for attempt in newest if attempt not in _measured]
    rows = await store.find_measurements(session, [attempt.id for attempt in unknown])
    _measured.update({one: _measured_by(one, rows[one.id]) for one in unknown if one.id in rows})
    for forgotten in _measured.keys() - set(newest):
        del _measured[forgotten]
    runs: dict[tuple[str, str], list[Measurement]] = {}
    for found in (_measured[attempt] for attempt in newest if attempt in _measured):
        runs.setdefault((found.worker_class, found.model), []).extend(found.measurements)
    return MeasuredCorrections({kind: corrections_from(group) for kind, group in runs.items()})


def _measured_by(attempt: MeasuredAttempt, row: Row[Any]) -> _Measured:
    """The run, and its canary where there was no whole run to measure it better."""
    found = []
    if attempt.succeeded:
        run = measurement_of(row.plan, row.result)
        if row.epoch > 1:  # its speed is that of several attempts, perhaps on other machines
            run = run.model_copy(update={"tokens_per_second": None})
        found.append(run)
    if attempt.has_canary and (row.epoch > 1 or not attempt.succeeded):
        found.append(measurement_of(row.plan, row.canary, is_canary=True))
    return _Measured(row.worker_class, row.model, found)
