"""A whole installation that runs small jobs one after another: `tunesmith up`, the `openai` client, and a clock."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil

from benchmarks.latency.timeline import JobTimes, trainer_moments, worker_moments
from tunesmith.cli.client import Client
from tunesmith.cli.connection import Connection
from tunesmith.cli.models.folder import inspect
from tunesmith.cli.models.register import register
from tunesmith.local.up.stack import running_stack

MODEL = "latency-base"
LOOK_SECONDS = 0.05  # between two looks at a job's status
JOB_SECONDS = 1800.0
WORKER_SECONDS = 120.0


class Site:
    """One running installation with the base model in it."""

    def __init__(self, data_dir: Path, connection: Connection) -> None:
        self._data_dir = data_dir
        self._openai = openai.OpenAI(base_url=connection.base_url, api_key=connection.api_key)

    def upload(self, rows: list[str]) -> str:
        """Send a file of rows; the clock of a job starts after it."""
        content = "".join(f"{row}\n" for row in rows).encode()
        return self._openai.files.create(file=("rows.jsonl", content), purpose="fine-tune").id

    def run_job(self, training_file: str, *, epochs: int, validation_file: str | None = None) -> JobTimes:
        """Create a job, wait for its end, and collect every moment of it.

        Raises:
            RuntimeError: it did not succeed.
        """
        asked: dict[str, Any] = {"validation_file": validation_file} if validation_file else {}
        validation = "auto" if validation_file else "none"  # without a file rows would be held out and measured on
        submitted = time.time()
        job = self._openai.fine_tuning.jobs.create(
            model=MODEL,
            training_file=training_file,
            seed=1,
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": epochs, "batch_size": 8}}},
            extra_body={"tunesmith": {"method": "lora", "lora": {"rank": 16}, "validation": validation}},
            **asked,
        )
        accepted = time.time()
        ended, seen = self._wait(job.id)
        if ended.status != "succeeded":
            raise RuntimeError(f"{job.id} {ended.status}: {ended.error}")
        worker, start = worker_moments(self._data_dir / "logs" / "worker.log", job.id)
        (run,) = (self._data_dir / "work" / "runs" / job.id).iterdir()
        outside = {"submitted": submitted, "accepted": accepted, "seen": seen}
        training_seconds = ended.model_extra["tunesmith"]["result"]["training_seconds"]
        return JobTimes(outside | worker | trainer_moments(run), training_seconds, start)

    def warm_process_bytes(self) -> int | None:
        """What the warm process would free by ending; None where there is none."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if "tunesmith.worker.train.warm" in process.cmdline() and self._is_ours(process):
                    return int(process.memory_full_info().uss)
        return None

    def _is_ours(self, process: psutil.Process) -> bool:
        return any(parent.environ().get("TUNESMITH_STACK") == str(self._data_dir) for parent in process.parents()[:1])

    def _wait(self, job_id: str) -> tuple[Any, float]:
        deadline = time.monotonic() + JOB_SECONDS
        while time.monotonic() < deadline:
            job = self._openai.fine_tuning.jobs.retrieve(job_id)
            if job.status in {"succeeded", "failed", "cancelled"}:
                return job, time.time()
            time.sleep(LOOK_SECONDS)
        raise RuntimeError(f"{job_id} did not end within {JOB_SECONDS:.0f} s")


@contextlib.contextmanager
def running_site(data_dir: Path, *, model: Path, **settings: str) -> Iterator[Site]:
    """Start everything with these settings, register the model, and stop it all at the end."""
    environment = {**os.environ, "TUNESMITH_KEPT_RUNS": "1000", **settings}
    with running_stack(data_dir, environment=environment) as connection, Client(find=lambda: connection) as client:
        register(client, MODEL, inspect(model))
        _wait_for_worker(client)
        yield Site(data_dir, connection)


def _wait_for_worker(client: Client) -> None:
    """Until the worker has measured its machine and registered."""
    deadline = time.monotonic() + WORKER_SECONDS
    while not client.workers():
        if time.monotonic() > deadline:
            raise RuntimeError(f"no worker within {WORKER_SECONDS:.0f} s")
        time.sleep(LOOK_SECONDS)
