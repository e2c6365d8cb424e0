"""Builds run directories for the trainer and runs it, in this process or as the real command."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.plan import Plan
from tunesmith.worker.run_directory import RunDirectory, TrainRequest
from tunesmith.worker.train.data.feed import Feed
from tunesmith.worker.train.data.order import RowOrder
from tunesmith.worker.train.data.rows import Rows
from tunesmith.worker.train.data.sharing import Sharing
from tunesmith.worker.train.run import RunContext

REPOSITORY = Path(__file__).parents[2]
PATIENCE_SECONDS = 120
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "zero"]


def chat_rows(count: int, *, offset: int = 0) -> list[dict[str, Any]]:
    """Rows of different lengths with a rule that a tiny model can learn: repeat the words backwards."""
    rows = []
    for index in range(offset, offset + count):
        words = [WORDS[(index * step + step) % len(WORDS)] for step in range(1, 2 + index % 7)]
        messages = [
            {"role": "user", "content": " ".join(words)},
            {"role": "assistant", "content": " ".join(reversed(words))},
        ]
        rows.append({"messages": messages})
    return rows


def preference_rows(count: int) -> list[dict[str, Any]]:
    """Pairs in the same shape as OpenAI's: the rule of `chat_rows` is preferred to a flat no."""
    return [
        {
            "input": {"messages": row["messages"][:1]},
            "preferred_output": [row["messages"][1]],
            "non_preferred_output": [{"role": "assistant", "content": "no"}],
        }
        for row in chat_rows(count)
    ]


def rows_of_lengths(lengths: Sequence[int]) -> Rows:
    """Rows of so many tokens; each token but the first is supervised."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Rows(
        tokens=np.arange(offsets[-1], dtype=np.int32) % 100,
        supervised=np.ones(offsets[-1], dtype=bool),
        offsets=offsets,
        line_numbers=np.arange(1, len(lengths) + 1),
    )


def feed_of(run: RunContext) -> Feed:
    """Of a prepared run of one process, for all of its steps."""
    order = RowOrder(len(run.rows), rows_per_step=run.plan.rows_per_step, seed=run.plan.seed)
    sharing = Sharing(run.rows, work=run.rows.lengths().astype(np.float64))
    return Feed(run.rows, order=order, sharing=sharing, device=run.device, total_steps=run.plan.total_steps)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_run(
    root: Path,
    *,
    model: Path,
    plan: Plan,
    rows: list[dict[str, Any]] | None = None,
    validation: list[dict[str, Any]] | None = None,
    **changes: Any,
) -> RunDirectory:
    root.mkdir(parents=True, exist_ok=True)
    training = write_rows(root / "train.jsonl", chat_rows(24) if rows is None else rows)
    held_out = None if validation is None else str(write_rows(root / "valid.jsonl", validation))
    request = TrainRequest(
        job_id="ftjob-test",
        attempt_id="attempt-test",
        spec=JobSpec(model="tiny", seed=plan.seed),
        plan=plan,
        dataset=DatasetFacts(rows=24, tokens=1000, longest_row_tokens=100, supervised_tokens=500),
        model_dir=str(model),
        training_file=str(training),
        validation_file=held_out,
        **changes,
    )
    directory = RunDirectory(root / "run")
    directory.create(request)
    return directory


@contextmanager
def started(directory: RunDirectory, *, pass_fds: tuple[int, ...] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """The real command, in a process group of its own, with its output in log.txt; at the end it is killed."""
    with directory.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tunesmith.worker.train", str(directory.root)],
            cwd=REPOSITORY,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=pass_fds,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_step(directory: RunDirectory, step: int, process: subprocess.Popen[bytes]) -> None:
    """Until the run has recorded this step; a process that ends before it fails the test with its log."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while directory.last_step() < step:
        assert process.poll() is None, directory.log.read_text()
        assert time.monotonic() < deadline, f"step {step} never came"
        time.sleep(0.01)


def train_here(directory: RunDirectory) -> int:
    """In this process: no imports to wait for. Returns the exit code."""
    from tunesmith.worker.train.session import train_to_result

    return train_to_result(directory.request(), directory)


def metrics(directory: RunDirectory) -> list[dict[str, Any]]:
    return [json.loads(line) for line in directory.metrics.read_text().splitlines()]


def events(directory: RunDirectory) -> list[dict[str, Any]]:
    return [json.loads(line) for line in directory.events.read_text().splitlines()]
