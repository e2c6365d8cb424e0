"""Reads what the trainer appends to its files, and ships it by byte offset: nothing is lost and nobody waits.

The trainer never waits for the network: it writes files. This thread reads whole lines from where it left off, sends
them in bounded batches, and stores its offset only after the service has them. An hour without a service is made up for
later.
"""

import json
import math
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from structlog.typing import FilteringBoundLogger

from tunesmith.tuning.errors import InvalidRequest, LeaseLost, NotFound, brief
from tunesmith.tuning.messages import CanaryReport, EventReport, MetricChunk, PhaseReport
from tunesmith.tuning.state import Phase
from tunesmith.tuning.values.base import Value
from tunesmith.tuning.values.redact import scrub_all
from tunesmith.worker.attempt.progress import Progress
from tunesmith.worker.attempt.stop_requests import StopRequest, StopRequests
from tunesmith.worker.run_directory import NotPlain, RunDirectory, plain_bytes, without_links, write_atomically
from tunesmith.worker.transport.control import AttemptControl

BATCH_BYTES = 128 * 1024
LONGEST_LINE_BYTES = 1024**2


class Shipped(Value):
    """How far each file has been handed over, in bytes or at all; lies in the run directory as `shipped.json`."""

    metrics: int = 0
    events: int = 0
    canary: bool = False


class Follower:
    """Ships metrics, events and phases of one run, in the background until `stop`, and the rest in `flush`."""

    def __init__(
        self,
        run: RunDirectory,
        control: AttemptControl,
        *,
        progress: Progress,
        directives: StopRequests,
        log: FilteringBoundLogger,
        secrets: tuple[str, ...] = (),
        interval_seconds: float = 0.5,
    ) -> None:
        self._run = run
        self._control = control
        self._progress = progress
        self._directives = directives
        self._log = log
        self._secrets = secrets
        self._interval_seconds = interval_seconds
        self._offsets_path = run.root / "shipped.json"
        self._offsets = _load(self._offsets_path)
        self._phase: Phase | None = None
        self._recorded_step = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)

    @property
    def recorded_step(self) -> float:
        """The last step whose metrics this attempt has handed over."""
        return self._recorded_step

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; waits at most for the call that is under way."""
        self._stopped.set()
        self._thread.join(timeout=30)

    def flush(self, control: AttemptControl) -> None:
        """Ship everything that is left, through a control that is patient. Call it after `stop`.

        Raises:
            LeaseLost, Unavailable, and what the control's check raises.
        """
        self._control = control
        self.ship()

    def ship(self) -> None:
        """Hand over what is there now: the phase first, the canary, then whole lines of events and metrics."""
        self._ship_phase()
        self._ship_canary()
        while self._ship_events():
            pass
        while self._ship_metrics():
            pass

    def _follow(self) -> None:
        away = False
        while not self._stopped.wait(self._interval_seconds):
            try:
                self.ship()
                away = False
            except LeaseLost:
                self._directives.tell(StopRequest.LEASE_LOST)
                return
            except Exception as error:  # whatever it was: checkpoints wait for what this thread hands over
                if not away:
                    self._log.warning("metrics.waiting", error=brief(error))
                away = True

    def _ship_phase(self) -> None:
        phase = _read_phase(self._run.phase)
        if phase is None or phase is self._phase:
            return
        self._progress.reached(phase)
        self._control.phase(PhaseReport(phase=phase))
        self._phase = phase

    def _ship_canary(self) -> None:
        if self._offsets.canary or not self._run.canary.exists():
            return
        try:
            report = CanaryReport.model_validate_json(plain_bytes(self._run.canary))
            self._send(partial(self._control.canary, report))
            self._progress.expected(report.expected_seconds)
        except (ValidationError, NotPlain, NotFound) as error:  # not what the trainer writes, or an older service
            self._log.warning("canary.not_reported", reason=type(error).__name__)
        self._advance(canary=True)

    def _ship_events(self) -> bool:
        start = self._offsets.events
        lines, end = read_lines(self._run.events, start)
        for line in lines:
            report = _event(line, secrets=self._secrets)
            if report is not None:
                self._send(partial(self._control.event, report))
            self._advance(events=self._offsets.events + len(line))
        self._advance(events=end)
        return end > start

    def _ship_metrics(self) -> bool:
        start = self._offsets.metrics
        lines, end = read_lines(self._run.metrics, start)
        points = tuple(point for line in lines if (point := _point(line)))
        if points:
            self._progress.stepped(points[-1])
            chunk = MetricChunk(start_offset=start, end_offset=end, points=points)
            self._send(partial(self._control.metrics, chunk))
            self._recorded_step = points[-1].get("step") or self._recorded_step
        self._advance(metrics=end)
        return end > start

    def _send(self, call: Callable[[], None]) -> None:
        """One record that the service will never accept must not hold up all that follow it."""
        try:
            call()
        except InvalidRequest as error:
            self._log.warning("record.refused", reason=str(error))

    def _advance(self, **offsets: int | bool) -> None:
        moved = self._offsets.model_copy(update=offsets)
        if moved != self._offsets:
            self._offsets = moved
            write_atomically(self._offsets_path, moved.model_dump_json())


def read_lines(path: Path, start: int) -> tuple[list[bytes], int]:
    """Return whole lines from byte `start`, about one batch of them, and the offset behind the last.

    A half-written last line stays for the next call. A line longer than any we write is skipped as damage.
    """
    try:
        with open(path, "rb", opener=without_links) as file:
            file.seek(start)
            data = file.read(BATCH_BYTES)
            if b"\n" not in data and len(data) == BATCH_BYTES:
                data += file.read(LONGEST_LINE_BYTES)
    except (FileNotFoundError, NotPlain):
        return [], start
    end = data.rfind(b"\n") + 1
    if end == 0:
        return [], start + (len(data) if len(data) > LONGEST_LINE_BYTES else 0)
    return data[:end].splitlines(keepends=True), start + end


def _load(path: Path) -> Shipped:
    return Shipped.model_validate_json(path.read_bytes()) if path.exists() else Shipped()


def _read_phase(path: Path) -> Phase | None:
    try:
        return Phase(plain_bytes(path, most_bytes=100).decode().strip())
    except (FileNotFoundError, NotPlain, ValueError):
        return None


def _object(line: bytes) -> dict[str, Any] | None:
    """A JSON object, or None for a line that a dying trainer left damaged."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _event(line: bytes, *, secrets: tuple[str, ...]) -> EventReport | None:
    record = _object(line)
    if record is None:
        return None
    record = scrub_all(record, secrets)
    try:
        return EventReport.model_validate(record)
    except ValidationError:
        return EventReport(level="info", message=str(record.get("message", "")), data={"record": record})


def _point(line: bytes) -> dict[str, float | int | None]:
    """The numbers of a metric line. JSON on the wire has no NaN or infinity: they become null."""
    record = _object(line) or {}
    return {key: _finite(value) for key, value in record.items() if value is None or _is_number(value)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _finite(value: float | None) -> float | int | None:
    return value if value is None or math.isfinite(value) else None
