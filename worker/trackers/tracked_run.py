"""What the program that follows a run for a tracker is told, before it reads a single metric."""

from typing import Literal

from tunesmith.tuning.values.base import Value

TrackerKind = Literal["wandb", "mlflow"]


class TrackedRun(Value):
    """One run for one tracker; the first line on the program's standard input."""

    kind: TrackerKind
    metrics: str
    """The file that the trainer appends to."""
    job_id: str
    """Attempts of one job are one run there."""
    project: str
    """What groups runs: a project of W&B's, an experiment of MLflow's."""
    name: str
    """What the run is called."""
    entity: str | None = None
    """W&B's team or user."""
    tags: tuple[str, ...] = ()
    """Words to find it by."""
    config: dict[str, str | int | float | None] = {}
    """What was decided before it began."""
