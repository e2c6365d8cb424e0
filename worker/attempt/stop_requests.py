"""What one attempt has been told to do while it runs: cancel, pause, drain, or stop because its lease is gone."""

import threading
import time
from collections.abc import Callable
from enum import StrEnum

from tunesmith.tuning.errors import LeaseLost
from tunesmith.tuning.state import Outcome


class StopRequest(StrEnum):
    """In order of precedence: a lost lease beats everything, a user's cancel beats a pause, both beat a drain."""

    LEASE_LOST = "lease_lost"
    CANCEL = "cancel"
    PAUSE = "pause"
    DRAIN = "drain"


OUTCOMES = {
    StopRequest.CANCEL: Outcome.CANCELLED,
    StopRequest.PAUSE: Outcome.PAUSED,
    StopRequest.DRAIN: Outcome.PREEMPTED,
}


class AttemptStopped(Exception):
    """The attempt was told to stop before it had finished."""

    def __init__(self, directive: StopRequest) -> None:
        super().__init__(directive.value)
        self.directive = directive


class OutOfTime(Exception):
    """The worker must be gone now, so what is not yet handed over stays here."""


class StopRequests:
    """Set by the heartbeat thread and by the worker's drain file, read by every part of the attempt."""

    def __init__(self, *, drain_deadline: Callable[[], float | None], clock: Callable[[], float] = time.time) -> None:
        self._drain_deadline = drain_deadline
        self._clock = clock
        self._told: set[StopRequest] = set()
        self._lock = threading.Lock()

    def tell(self, directive: StopRequest) -> None:
        """Add a directive. There is no way back from one."""
        with self._lock:
            self._told.add(directive)

    def current(self) -> StopRequest | None:
        """The directive that counts, if any."""
        with self._lock:
            told = set(self._told)
        if self._drain_deadline() is not None:
            told.add(StopRequest.DRAIN)
        return next((directive for directive in StopRequest if directive in told), None)

    def check_before_training(self) -> None:
        """Nothing is lost yet, so any directive ends the attempt at once.

        Raises:
            LeaseLost, Halted
        """
        self._check_lease()
        directive = self.current()
        if directive is not None:
            raise AttemptStopped(directive)

    def check_while_handing_over(self) -> None:
        """Results exist: only a lost lease or the end of the grace keeps them from being handed over.

        Raises:
            LeaseLost, OutOfTime
        """
        self._check_lease()
        deadline = self._drain_deadline()
        if deadline is not None and self._clock() > deadline:
            raise OutOfTime

    def _check_lease(self) -> None:
        if self.current() is StopRequest.LEASE_LOST:
            raise LeaseLost("Another attempt owns the job.")
