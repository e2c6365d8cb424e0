"""What runs and their canaries measured, as corrections for the next prediction, by worker class and model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import Model
from tunesmith.service.planning import store
from tunesmith.tuning.corrections import Corrections
from tunesmith.tuning.estimates.measured import Measurement, corrections_from, measurement_of
from tunesmith.tuning.words import Method


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
    for row in await store.find_newest_measured(session, worker_class=worker_class):
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
