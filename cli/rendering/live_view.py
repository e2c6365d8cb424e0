"""How a followed job looks: a live bar for a person, plain lines for a log; both say the same things."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tunesmith.cli import output
from tunesmith.cli.follow import View
from tunesmith.cli.progress import PLAIN_INTERVAL_SECONDS
from tunesmith.tuning.api.history import EventObject
from tunesmith.tuning.api.jobs import JobObject, TunesmithJob
from tunesmith.tuning.api.metrics import MetricPoint
from tunesmith.tuning.state import JobState

_BAR_WIDTH = 24
_LONGEST_MESSAGE_CHARACTERS = 150


@contextmanager
def view_for_this_terminal() -> Iterator[View]:
    """The live view on a terminal, plain lines elsewhere."""
    if not output.is_interactive():
        yield PlainView()
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, highlight=False)
    with Live(console=console, transient=True, refresh_per_second=4) as live:
        yield LiveView(live)


class _Story:
    """Turns what a poll saw into lines, each told once."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._told_headlines: list[str] = []
        self._newest: MetricPoint | None = None
        self._best_valid_loss: float | None = None
        self._job_now: JobObject | None = None

    def job(self, job: JobObject) -> None:
        self._job_now = job
        headline = headline_of(job)
        if self._told_headlines and self._told_headlines[0].split()[0] != headline.split()[0]:
            self._told_headlines = []  # another state; within one, evaluating and training alternate many times
        if headline not in self._told_headlines:
            self._told_headlines.append(headline)
            self._tell(headline)

    def event(self, event: EventObject) -> None:
        if event.type != "metrics":
            level = "" if event.level == "info" else f"{event.level}: "
            self._tell(f"{' ' * 12}{level}{_clipped(event.message)}")

    def point(self, point: MetricPoint) -> None:
        measured = {name: value for name, value in point if value is not None}
        self._newest = self._newest.model_copy(update=measured) if self._newest else point
        valid_loss = point.valid_loss
        if valid_loss is not None and (self._best_valid_loss is None or valid_loss < self._best_valid_loss):
            self._best_valid_loss = valid_loss

    def line(self, text: str) -> None:
        self._tell(text)

    def lost(self, reason: str) -> None:
        self._tell(f"{' ' * 12}{reason} Waiting for it to come back; the job itself goes on.")

    def found(self) -> None:
        self._tell(f"{' ' * 12}The service answers again.")

    @property
    def progress(self) -> str:
        if self._job_now is None or self._job_now.status != "running" or self._newest is None:
            return ""
        return progress_line(self._newest, best_valid_loss=self._best_valid_loss)

    @property
    def share_done(self) -> float:
        if self._newest is None or not self._newest.total_steps:
            return 0.0
        return min(1.0, self._newest.step / self._newest.total_steps)


class PlainView(_Story):
    """One line per change, and progress at most every 30 s."""

    def __init__(
        self, *, tell: Callable[[str], None] = output.note, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(tell)
        self._clock = clock
        self._told_at = clock()
        self._told = ""

    def job(self, job: JobObject) -> None:
        """Tell a change of state or phase, and progress when it is time."""
        super().job(job)
        line = self.progress
        if line and line != self._told and self._clock() - self._told_at >= PLAIN_INTERVAL_SECONDS:
            self._told_at, self._told = self._clock(), line
            self._tell(f"{' ' * 12}{line}")


class LiveView(_Story):
    """Lines scroll by above one bar that stays."""

    def __init__(self, live: Any) -> None:
        from rich.text import Text

        super().__init__(lambda line: live.console.print(Text.from_ansi(line)))
        self._live = live

    def job(self, job: JobObject) -> None:
        """Tell a change of state or phase, and redraw the bar."""
        super().job(job)
        from rich.text import Text

        line = self.progress
        self._live.update(Text(f"  {bar(self.share_done)}  {line}" if line else "", no_wrap=True, overflow="ellipsis"))


def headline_of(job: JobObject) -> str:
    """State, and what explains it: the place in line, the phase, or the result."""
    detail = {
        JobState.QUEUED: _queue_text(job.tunesmith),
        JobState.RUNNING: _phase_text(job.tunesmith),
        JobState.PAUSED: f"tunesmith resume {job.id}",
        JobState.SUCCEEDED: job.fine_tuned_model or "",
        JobState.FAILED: job.error.message if job.error else "",
    }.get(job.status, "")
    return f"{output.state(job.status)}  {detail}".rstrip()


def progress_line(point: MetricPoint, *, best_valid_loss: float | None = None) -> str:
    """`312/396  loss 1.124  valid 1.187 (best)  21.4k tok/s  eta 7m 40s`, with what is known so far."""
    parts = [f"{point.step}/{point.total_steps or '?'}"]
    if point.train_loss is not None:
        parts.append(f"loss {point.train_loss:.3f}")
    if point.valid_loss is not None:
        parts.append(f"valid {point.valid_loss:.3f}" + (" (best)" if point.valid_loss == best_valid_loss else ""))
    if point.tokens_per_second:
        parts.append(f"{_thousands(point.tokens_per_second)} tok/s")
    if point.mfu is not None:
        parts.append(f"MFU {point.mfu:.0%}")
    if point.eta_seconds is not None:
        parts.append(f"eta {output.duration(point.eta_seconds)}")
    return "  ".join(parts)


def bar(share: float) -> str:
    """A share from 0 to 1 as 24 blocks."""
    done = round(_BAR_WIDTH * share)
    return "█" * done + "░" * (_BAR_WIDTH - done)


def _queue_text(ours: TunesmithJob) -> str:
    parts = [f"number {ours.queue_position} in line" if ours.queue_position else "", ours.waiting_reason or ""]
    return ", ".join(part for part in parts if part)


def _phase_text(ours: TunesmithJob) -> str:
    marks = ["cancelling" if ours.cancel_requested else "", ours.method, ours.phase or ""]
    return "  ".join(mark for mark in marks if mark)


def _clipped(message: str) -> str:
    """One line of bounded length; `tunesmith logs` has the rest."""
    line = " ".join(message.split())
    return line if len(line) <= _LONGEST_MESSAGE_CHARACTERS else f"{line[: _LONGEST_MESSAGE_CHARACTERS - 3]}..."


def _thousands(number: float) -> str:
    return f"{number / 1000:.1f}k" if number >= 1000 else f"{number:.0f}"
