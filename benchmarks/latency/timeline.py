"""The moments of one job, by the user's clock, the worker's log and the trainer's timeline, and the stages between."""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

WORKER_EVENTS = {
    "attempt.claimed": "claimed",
    "trainer.started": "started",
    "trainer.exited": "exited",
    "attempt.finished": "finished",
}


@dataclass(frozen=True)
class Stage:
    """What happens between two moments."""

    name: str
    begins: str
    ends: str


# In the order of a job's life; each begins where the one before it ends.
STAGES = (
    Stage("submit: the API's answer", "submitted", "accepted"),
    Stage("wake-up and claim", "accepted", "claimed"),
    Stage("prepare: plan, model files, data", "claimed", "started"),
    Stage("process, imports", "started", "preparing"),
    Stage("tokenizer, rows, kernels", "preparing", "rows_ready"),
    Stage("load the model", "rows_ready", "model_loaded"),
    Stage("attach and fuse the adapter", "model_loaded", "adapter_attached"),
    Stage("measure the processor's rate", "adapter_attached", "loop_ready"),
    Stage("canary, evaluation", "loop_ready", "training"),
    Stage("first optimizer step", "training", "first_step"),
    Stage("other steps, checkpoints", "first_step", "exporting"),
    Stage("write the result", "exporting", "result_written"),
    Stage("end of the process", "result_written", "exited"),
    Stage("hand over, upload, finish", "exited", "finished"),
    Stage("until the client sees it", "finished", "seen"),
)


@dataclass(frozen=True)
class JobTimes:
    """When each moment of one job came, in seconds since the epoch, and how long its optimizer steps took together."""

    moments: dict[str, float]
    training_seconds: float
    start: str  # how the trainer was started, as the worker's log says

    def seconds(self, begins: str, ends: str) -> float:
        """From one moment to another."""
        return self.moments[ends] - self.moments[begins]

    @property
    def wall_over_training(self) -> float:
        """What the user waits, over the time spent in optimizer steps."""
        return self.seconds("submitted", "seen") / self.training_seconds


def worker_moments(log: Path, job_id: str) -> tuple[dict[str, float], str]:
    """The first of each of the worker's moments, and how its trainer was started."""
    found: dict[str, float] = {}
    start = "plain"
    for line in log.read_text(encoding="utf-8").splitlines():
        record = _object(line)
        if record.get("job_id") != job_id:
            continue
        start = record.get("start", start)
        name = WORKER_EVENTS.get(record.get("event", ""))
        if name is not None:
            found.setdefault(name, datetime.fromisoformat(record["timestamp"]).timestamp())
    return found, start


def trainer_moments(run: Path) -> dict[str, float]:
    """The first of each of the trainer's moments. Without canary and evaluation the loop is ready when it trains."""
    found: dict[str, float] = {}
    for record in _lines(run / "timeline.jsonl"):
        found.setdefault(record["reached"], record["time"])
    steps = [record["time"] for record in _lines(run / "metrics.jsonl") if record["step"] > 0]
    before = [found[name] for name in ("canary", "evaluating") if name in found and found[name] < steps[0]]
    return found | {"first_step": steps[0], "loop_ready": min(before, default=found["training"])}


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _object(line: str) -> dict[str, Any]:
    """A line of the log, or nothing for one that a library printed."""
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
