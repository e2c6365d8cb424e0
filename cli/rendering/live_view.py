"""How a followed job looks: a live bar for a person, plain lines for a log; both say the same few things.

What it says is what a person waits for: changes of state, the plan, warnings, how far it is. `tunesmith logs` has all.
"""

import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tunesmith.cli import output
from tunesmith.cli.follow import View
from tunesmith.cli.rendering.bottom_line import BottomLine, bottom_line
from tunesmith.cli.rendering.headlines import headline_of, start_text
from tunesmith.tuning.api.history import EventObject
from tunesmith.tuning.api.jobs import JobObject, JobWaiting
from tunesmith.tuning.api.metrics import MetricPoint
from tunesmith.tuning.state import JobState

if TYPE_CHECKING:
    from tunesmith.tuning.api.comparisons.evaluations import EvaluationObject

_BAR_WIDTH = 24
_LONGEST_MESSAGE_CHARACTERS = 150
_SHORTEST_INTERVAL_SECONDS, _LONGEST_INTERVAL_SECONDS = 10.0, 60.0  # between lines of progress in a log


@contextmanager
def view_for_this_terminal(
    *, silence_seconds: float | None = None, evaluation: "EvaluationObject | None" = None
) -> Iterator[View]:
    """The live view on a terminal, plain lines elsewhere, which are never silent for longer if that is given."""
    if not output.is_interactive():
        yield PlainView(silence_seconds=silence_seconds, evaluation=evaluation)
        return
    with bottom_line(sys.stderr) as line:
        yield LiveView(line, evaluation=evaluation)


class _Story:
    """Turns what a poll saw into lines, each told once. `now` gives Unix seconds."""

    def __init__(
        self,
        tell: Callable[[str], None],
        *,
        evaluation: "EvaluationObject | None",
        now: Callable[[], float] = time.time,
    ) -> None:
        self._tell, self._evaluation, self._now = tell, evaluation, now
        self._told_headline = ""
        self._newest: MetricPoint | None = None
        self._best_valid_loss: float | None = None
        self._job_now: JobObject | None = None
        self._waiting: JobWaiting | None = None

    def job(self, job: JobObject) -> None:
        self._job_now = job
        waiting = self._waiting if job.status == JobState.QUEUED else None
        headline = headline_of(job, waiting=waiting, evaluation=self._evaluation)
        if headline != self._told_headline:
            self._told_headline = headline
            self._tell(", ".join(part for part in (headline, self._start_text) if part))

    def waiting(self, waiting: JobWaiting) -> None:
        self._waiting = waiting

    def event(self, event: EventObject) -> None:
        if event.level != "info" and not self._is_told(event):
            self._tell(f"{' ' * 12}{event.level}: {_clipped(event.message)}")

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
        """How far it is: in line when it starts, then the phase, and once it trains the newest numbers; else empty."""
        job = self._job_now
        if job is None or job.status != JobState.RUNNING:
            return self._start_text or ""
        if self._newest is None or job.tunesmith.phase not in ("training", "evaluating"):
            return "cancelling" if job.tunesmith.cancel_requested else job.tunesmith.phase or ""
        return progress_line(self._newest, best_valid_loss=self._best_valid_loss)

    @property
    def _start_text(self) -> str | None:
        """When a job in line is expected to start."""
        job, waiting = self._job_now, self._waiting
        if job is None or job.status != JobState.QUEUED or waiting is None:
            return None
        return start_text(waiting, now=self._now())

    @property
    def share_done(self) -> float:
        if self._newest is None or not self._newest.total_steps:
            return 0.0
        return min(1.0, self._newest.step / self._newest.total_steps)

    def _is_told(self, event: EventObject) -> bool:
        """What the headline says of a queued or failed job comes as an event too."""
        job = self._job_now
        reason = job.tunesmith.waiting_reason or (job.error.message if job.error else None) if job else None
        return reason is not None and reason in event.message


class PlainView(_Story):
    """One line per change, and progress every 10 s at first, then more rarely the longer it takes.

    With `silence_seconds` something is told as often, if only for how long it has taken.
    """

    def __init__(
        self,
        *,
        tell: Callable[[str], None] = output.note,
        clock: Callable[[], float] = time.monotonic,
        silence_seconds: float | None = None,
        evaluation: "EvaluationObject | None" = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(self._told_to(tell), evaluation=evaluation, now=now)
        self._clock, self._silence_seconds = clock, silence_seconds
        self._began_at = self._told_at = self._spoke_at = clock()
        self._told = ""

    def job(self, job: JobObject) -> None:
        """Tell a change of state, and progress when it is time."""
        super().job(job)
        line, now = self.progress, self._clock()
        if line and line != self._told and now - self._told_at >= self._interval_seconds:
            self._told_at, self._told = now, line
            self._tell(f"{' ' * 12}{line}")
        elif self._silence_seconds is not None and now - self._spoke_at >= self._silence_seconds:
            self._tell(f"{' ' * 12}{line or job.status}  after {output.duration(now - self._began_at)}")

    def _told_to(self, tell: Callable[[str], None]) -> Callable[[str], None]:
        def tell_and_remember(line: str) -> None:
            self._spoke_at = self._clock()
            tell(line)

        return tell_and_remember

    @property
    def _interval_seconds(self) -> float:
        passed = self._clock() - self._began_at
        return min(_LONGEST_INTERVAL_SECONDS, max(_SHORTEST_INTERVAL_SECONDS, passed / 10))


class LiveView(_Story):
    """Lines scroll by above one bar that stays."""

    def __init__(self, line: BottomLine, *, evaluation: "EvaluationObject | None" = None) -> None:
        super().__init__(line.tell, evaluation=evaluation)
        self._line = line

    def job(self, job: JobObject) -> None:
        """Tell a change of state, and redraw the bar."""
        super().job(job)
        drawn, progress = bar(self.share_done), self.progress
        self._line.show(lambda columns: fitted(drawn, progress, columns=columns) if progress else "")


def progress_line(point: MetricPoint, *, best_valid_loss: float | None = None) -> str:
    """`312/396  loss 1.124  eta 7m 40s  valid 1.187 (best)  21.4k tok/s`: what is known, the most wanted first."""
    parts = [f"{point.step}/{point.total_steps or '?'}"]
    if point.train_loss is not None:
        parts.append(f"loss {point.train_loss:.3f}")
    if point.eta_seconds is not None:
        parts.append(f"eta {output.duration(point.eta_seconds)}")
    if point.valid_loss is not None:
        parts.append(f"valid {point.valid_loss:.3f}" + (" (best)" if point.valid_loss == best_valid_loss else ""))
    if point.tokens_per_second:
        parts.append(f"{_thousands(point.tokens_per_second)} tok/s")
    if point.mfu is not None and point.mfu <= 1:  # more: its measure was taken while the machine did other work
        parts.append(f"MFU {point.mfu:.0%}")
    return "  ".join(parts)


def fitted(drawn: str, progress: str, *, columns: int) -> str:
    """A bar and as many numbers of a line of progress as fit; without the bar where not even three do."""
    parts = progress.split("  ")
    lines = ["  ".join(["", drawn, *parts[:count]]) for count in range(len(parts), min(3, len(parts)) - 1, -1)]
    return next((line for line in lines if len(line) <= columns), progress[:columns])


def bar(share: float) -> str:
    """A share from 0 to 1 as 24 blocks."""
    done = round(_BAR_WIDTH * share)
    return "█" * done + "░" * (_BAR_WIDTH - done)


def _clipped(message: str) -> str:
    """One line of bounded length; `tunesmith logs` has the rest."""
    return textwrap.shorten(message, _LONGEST_MESSAGE_CHARACTERS, placeholder=" ...")


def _thousands(number: float) -> str:
    return f"{number / 1000:.1f}k" if number >= 1000 else f"{number:.0f}"
