"""For how long one process has been able to take heartbeats, by its own clock and the database's together."""

from dataclasses import dataclass, field


@dataclass
class Steadiness:
    """Counts from the last interruption. A gap between two beats is one, and so is a clock that jumped.

    The process stood still, its event loop was blocked or the database did not answer: by the monotonic clock. The
    database's clock was set, or the process slept with its host: by the difference of the two.
    """

    longest_gap_seconds: float
    _since: float = field(default=0.0, init=False)
    _last: tuple[float, float] | None = field(default=None, init=False)

    def beat(self, moment: float, *, database_seconds: float) -> float:
        """Another beat at a monotonic `moment` and `database_seconds` since the epoch; returns the steady seconds."""
        if self._interrupted(moment, database_seconds):
            self._since = moment
        self._last = (moment, database_seconds)
        return moment - self._since

    def _interrupted(self, moment: float, database_seconds: float) -> bool:
        if self._last is None:
            return True
        gap, gap_of_database = moment - self._last[0], database_seconds - self._last[1]
        return max(gap, abs(gap_of_database - gap)) > self.longest_gap_seconds
