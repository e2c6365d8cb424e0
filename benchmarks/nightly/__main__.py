"""Twenty schedules due in one minute on one host: wall over training, starting, and changes of base.

    make bench-nightly   or   python -m benchmarks.nightly [--schedules 20] [--bases 2] [--way plain|shared]

`plain` imports everything anew for each job and tokenises its rows again; `shared` is what a worker does unless told
otherwise. The bases are tiny models with random weights, and schedules take them in turn, so that without regard to
them a worker would change its base after every job. All schedules train on the same rows. Nothing is downloaded.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.machine import setting
from tests.tiny_model import build_tiny_model
from tunesmith.cli.client import Client
from tunesmith.cli.models.folder import inspect
from tunesmith.cli.models.register import register
from tunesmith.local.up.stack import running_stack

WAYS: Mapping[str, Mapping[str, str]] = {
    "plain": {"TUNESMITH_WARM_TRAINER": "false", "TUNESMITH_TOKEN_CACHE_BYTES": "0"},
    "shared": {"TUNESMITH_WARM_TRAINER": "true"},
}
ENDED = ("trained", "failed", "cancelled", "skipped", "missed")
LOOK_SECONDS = 1.0
NIGHT_SECONDS = 3600.0
START_SECONDS = 900.0
ROWS = 48


def main() -> None:
    """Run one night each way and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=20)
    parser.add_argument("--bases", type=int, default=2)
    parser.add_argument("--way", choices=WAYS, action="append", help="instead of both")
    arguments = parser.parse_args()
    nights = {}
    with tempfile.TemporaryDirectory(prefix="ts-nightly-") as folder:
        bases = [build_tiny_model(Path(folder) / f"base-{n}", seed=n) for n in range(arguments.bases)]
        for way in arguments.way or WAYS:
            nights[way] = night(Path(folder) / way, bases, schedules=arguments.schedules, settings=WAYS[way])
            print(f"{way}: {json.dumps(nights[way])}", flush=True)
    print(f"\n{setting('torch', 'transformers')}; {arguments.schedules} schedules, {arguments.bases} bases\n")
    print(table(nights))


def night(data_dir: Path, bases: list[Path], *, schedules: int, settings: Mapping[str, str]) -> dict[str, Any]:
    """What the service itself reports of the night, and the processor time of the whole installation."""
    before = _processor_seconds()
    with installation(data_dir, bases, settings=settings) as http:
        due_at = _fill(http, bases, schedules=schedules)
        _wait(http, due_at, schedules=schedules)
        (report,) = (one for one in _data(http, "/schedule_reports") if one["due_at"] == due_at.timestamp())
    return {**report, "processor_seconds": round(_processor_seconds() - before, 1)}


@contextmanager
def installation(data_dir: Path, bases: list[Path], *, settings: Mapping[str, str]) -> Iterator[httpx2.Client]:
    """Everything running, with the bases registered under the names of their folders."""
    environment = {**os.environ, **settings}
    with running_stack(data_dir, environment=environment, timeout_seconds=START_SECONDS) as connection:
        with Client(find=lambda: connection) as client:
            for base in bases:
                register(client, base.name, inspect(base))
        headers = {"authorization": f"Bearer {connection.api_key}"}
        with httpx2.Client(base_url=connection.base_url, headers=headers, timeout=60) as http:
            yield http


def _fill(http: httpx2.Client, bases: list[Path], *, schedules: int) -> datetime:
    """One file and so many schedules, due together in the minute after next; returns when."""
    rows = "".join(json.dumps({"prompt": f"{n} + 1 =", "completion": f" {n + 1}"}) + "\n" for n in range(ROWS))
    form = {"data": {"purpose": "fine-tune"}, "files": {"file": ("rows.jsonl", rows.encode())}}
    http.post("/files", **form).raise_for_status()
    due_at = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=2)
    for number in range(schedules):
        job = {
            "model": bases[number % len(bases)].name,
            "suffix": f"night-{number}",
            "seed": 1,
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 4}}},
            "tunesmith": {"method": "lora"},
        }
        body = {
            "name": f"night-{number:02}",
            "cron": f"{due_at.minute} {due_at.hour} * * *",
            "data": {"filename": "rows.jsonl"},
            "job": job,
        }
        http.post("/schedules", json=body).raise_for_status()
    return due_at


def _wait(http: httpx2.Client, due_at: datetime, *, schedules: int) -> None:
    deadline = time.monotonic() + NIGHT_SECONDS
    while time.monotonic() < deadline:
        last = [one["last_firing"] for one in _data(http, "/schedules")]
        ended = [one for one in last if one and one["due_at"] == due_at.timestamp() and one["state"] in ENDED]
        if len(ended) == schedules:
            return
        time.sleep(LOOK_SECONDS)
    raise RuntimeError(f"the night has not ended within {NIGHT_SECONDS:.0f} s: {last}")


def _data(http: httpx2.Client, path: str) -> list[dict[str, Any]]:
    return list(http.get(path).raise_for_status().json()["data"])


def _processor_seconds() -> float:
    """Of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(nights: Mapping[str, Mapping[str, Any]]) -> str:
    """What a night cost, one column to a way."""
    names = (
        "trained",
        "wall_seconds",
        "longest_wait_seconds",
        "startup_seconds",
        "training_seconds",
        "wall_over_training",
        "base_changes",
        "processor_seconds",
    )
    lines = [f"| | {' | '.join(nights)} |", "|---" * (1 + len(nights)) + "|"]
    for name in names:
        values = (night[name] for night in nights.values())
        cells = " | ".join(f"{value:.1f}" if isinstance(value, float) else str(value) for value in values)
        lines.append(f"| {name.replace('_', ' ')} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
