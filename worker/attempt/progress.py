"""Where an attempt is, as the heartbeat tells it: written by whoever learns it, read by the heartbeat thread."""

import threading

from tunesmith.tuning.messages import AttemptHeartbeat
from tunesmith.tuning.state import Phase


class Progress:
    """The newest phase, step and estimate of one attempt. Safe to use from several threads."""

    def __init__(self, *, total_steps: int | None) -> None:
        self._lock = threading.Lock()
        self._beat = AttemptHeartbeat(phase=Phase.CLAIMED, total_steps=total_steps)

    def reached(self, phase: Phase) -> None:
        """A phase began."""
        self._update(phase=phase)

    def stepped(self, point: dict[str, float | int | None]) -> None:
        """A metric point was read. Fields it does not have stay as they are."""
        known = {
            "step": _whole(point.get("step")),
            "total_steps": _whole(point.get("total_steps")),
            "eta_seconds": point.get("eta_seconds"),
        }
        self._update(**{key: value for key, value in known.items() if value is not None})

    def expected(self, seconds: float | None) -> None:
        """How long the canary lets all steps expect to take, until a step has been done."""
        if seconds is not None and self.beat().step is None:
            self._update(eta_seconds=seconds)

    def beat(self) -> AttemptHeartbeat:
        """The heartbeat to send now."""
        with self._lock:
            return self._beat

    def _update(self, **changes: object) -> None:
        with self._lock:
            self._beat = self._beat.model_copy(update=changes)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
