"""Weights & Biases and MLflow behind one small interface: begin a run, take points, end it."""

import os
from collections.abc import Mapping
from typing import Any, Protocol

from tunesmith.worker.trackers.tracked_run import TrackedRun

_OF_THE_JOB = "tunesmith.job_id"


class Sink(Protocol):
    """Where points go."""

    url: str | None  # where people look at the run

    def log(self, metrics: Mapping[str, float], *, step: int, time: float) -> None:
        """Take a point."""

    def finish(self, *, succeeded: bool) -> None:
        """The run is over."""


def open_sink(run: TrackedRun) -> Sink:
    """Begin the run, or go on with the one of an earlier attempt."""
    return WandbSink(run) if run.kind == "wandb" else MlflowSink(run)


class WandbSink:
    """A run of Weights & Biases; metrics alone, nothing about the machine, its code or its output."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        quiet = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_save_requirements=False,
        )
        self._run: Any = wandb.init(
            project=run.project,
            entity=run.entity,
            name=run.name,
            tags=list(run.tags),
            config=dict(run.config),
            id=run.job_id,
            resume="allow",
            settings=quiet,
        )
        self.url = self._run.url

    def log(self, metrics: Mapping[str, float], *, step: int, time: float) -> None:
        """See `Sink`."""
        self._run.log({**metrics, "_timestamp": time}, step=step)

    def finish(self, *, succeeded: bool) -> None:
        """See `Sink`."""
        self._run.finish(exit_code=0 if succeeded else 1)


class MlflowSink:
    """A run of MLflow's, found again by the job's id."""

    def __init__(self, run: TrackedRun) -> None:
        import mlflow
        from mlflow.tracking import MlflowClient

        address = os.environ["MLFLOW_TRACKING_URI"]
        self._mlflow, self._client = mlflow, MlflowClient(tracking_uri=address)
        experiment = self._client.get_experiment_by_name(run.project)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(run.project)
        self._run_id = self._found(experiment_id, run.job_id) or self._created(experiment_id, run)
        is_served = address.startswith(("http://", "https://"))
        self.url = f"{address.rstrip('/')}/#/experiments/{experiment_id}/runs/{self._run_id}" if is_served else None

    def log(self, metrics: Mapping[str, float], *, step: int, time: float) -> None:
        """See `Sink`."""
        milliseconds = int(time * 1000)
        points = [self._mlflow.entities.Metric(name, value, milliseconds, step) for name, value in metrics.items()]
        self._client.log_batch(self._run_id, metrics=points)

    def finish(self, *, succeeded: bool) -> None:
        """See `Sink`."""
        self._client.set_terminated(self._run_id, "FINISHED" if succeeded else "FAILED")

    def _found(self, experiment_id: str, job_id: str) -> str | None:
        wanted = f"tags.`{_OF_THE_JOB}` = '{job_id}'"
        for found in self._client.search_runs([experiment_id], filter_string=wanted, max_results=1):
            self._client.update_run(found.info.run_id, status="RUNNING")
            return str(found.info.run_id)
        return None

    def _created(self, experiment_id: str, run: TrackedRun) -> str:
        tags = {_OF_THE_JOB: run.job_id, **{f"tunesmith.tag.{tag}": tag for tag in run.tags}}
        run_id = str(self._client.create_run(experiment_id, run_name=run.name, tags=tags).info.run_id)
        for name, value in run.config.items():
            self._client.log_param(run_id, name, value)
        return run_id
