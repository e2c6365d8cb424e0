"""How a followed job looks: a live bar for a person, plain lines for a log; both say the same things."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tunesmith.cli import output
from tunesmith.cli.follow import View
from tunesmith.cli.progress import PLAIN_INTERVAL_SECONDS
from tunesmith.tuning.json_objects import Json
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
        self._newest: Json = {}
        self._best_valid_loss: float | None = None
        self.job_now: Json = {}

    def job(self, job: Json) -> None:
        self.job_now = job
        headline = headline_of(job)
        if self._told_headlines and self._told_headlines[0].split()[0] != headline.split()[0]:
            self._told_headlines = []  # another state; within one, evaluating and training alternate many times
        if headline not in self._told_headlines:
            self._told_headlines.append(headline)
            self._tell(headline)

    def event(self, event: Json) -> None:
        if event.get("type") != "metrics":
            level = "" if event["level"] == "info" else f"{event['level']}: "
            self._tell(f"{' ' * 12}{level}{_clipped(event['message'])}")

    def point(self, point: Json) -> None:
        self._newest = {**self._newest, **{name: value for name, value in point.items() if value is not None}}
        valid_loss = point.get("valid_loss")
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
        if self.job_now.get("status") != "running" or not self._newest:
            return ""
        return progress_line(self._newest, best_valid_loss=self._best_valid_loss)

    @property
    def share_done(self) -> float:
        total_steps = self._newest.get("total_steps")
        return min(1.0, self._newest["step"] / total_steps) if total_steps else 0.0


class PlainView(_Story):
    """One line per change, and progress at most every 30 s."""

    def __init__(
        self, *, tell: Callable[[str], None] = output.note, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(tell)
        self._clock = clock
        self._told_at = clock()
        self._told = ""

    def job(self, job: Json) -> None:
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

    def job(self, job: Json) -> None:
        """Tell a change of state or phase, and redraw the bar."""
        super().job(job)
        from rich.text import Text

        line = self.progress
        self._live.update(Text(f"  {bar(self.share_done)}  {line}" if line else "", no_wrap=True, overflow="ellipsis"))


def headline_of(job: Json) -> str:
    """State, and what explains it: the place in line, the phase, or the result."""
    ours = job.get("tunesmith") or {}
    status = job["status"]
    detail = {
        JobState.QUEUED: _queue_text(ours),
        JobState.RUNNING: _phase_text(ours),
        JobState.PAUSED: f"tunesmith resume {job['id']}",
        JobState.SUCCEEDED: job.get("fine_tuned_model") or "",
        JobState.FAILED: (job.get("error") or {}).get("message") or "",
    }.get(status, "")
    return f"{output.state(status)}  {detail}".rstrip()


def progress_line(point: Json, *, best_valid_loss: float | None = None) -> str:
    """`312/396  loss 1.124  valid 1.187 (best)  21.4k tok/s  eta 7m 40s`, with what is known so far."""
    parts = [f"{point.get('step', 0)}/{point.get('total_steps') or '?'}"]
    if (loss := point.get("train_loss")) is not None:
        parts.append(f"loss {loss:.3f}")
    if (valid_loss := point.get("valid_loss")) is not None:
        parts.append(f"valid {valid_loss:.3f}" + (" (best)" if valid_loss == best_valid_loss else ""))
    if speed := point.get("tokens_per_second"):
        parts.append(f"{_thousands(speed)} tok/s")
    if (mfu := point.get("mfu")) is not None:
        parts.append(f"MFU {mfu:.0%}")
    if (eta_seconds := point.get("eta_seconds")) is not None:
        parts.append(f"eta {output.duration(eta_seconds)}")
    return "  ".join(parts)


def bar(share: float) -> str:
    """A share from 0 to 1 as 24 blocks."""
    done = round(_BAR_WIDTH * share)
    return "█" * done + "░" * (_BAR_WIDTH - done)


def _queue_text(ours: Json) -> str:
    place = ours.get("queue_position")
    parts = [f"number {place} in line" if place else "", ours.get("waiting_reason") or ""]
    return ", ".join(part for part in parts if part)


def _phase_text(ours: Json) -> str:
    marks = ["cancelling" if ours.get("cancel_requested") else "", ours.get("method") or "", ours.get("phase") or ""]
    return "  ".join(mark for mark in marks if mark)


def _clipped(message: str) -> str:
    """One line of bounded length; `tunesmith logs` has the rest."""
    line = " ".join(message.split())
    return line if len(line) <= _LONGEST_MESSAGE_CHARACTERS else f"{line[: _LONGEST_MESSAGE_CHARACTERS - 3]}..."


def _thousands(number: float) -> str:
    return f"{number / 1000:.1f}k" if number >= 1000 else f"{number:.0f}"
