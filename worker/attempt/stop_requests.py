"""What one attempt has been told to do while it runs: cancel, pause, drain, or stop because its lease is gone."""

import threading
import time
from collections.abc import Callable
from enum import StrEnum

from tunesmith.tuning.errors import LeaseLost
from tunesmith.tuning.state import Outcome


class Directive(StrEnum):
    """In order of precedence: a lost lease beats everything, a user's cancel beats a pause, both beat a drain."""

    LEASE_LOST = "lease_lost"
    CANCEL = "cancel"
    PAUSE = "pause"
    DRAIN = "drain"


OUTCOMES = {
    Directive.CANCEL: Outcome.CANCELLED,
    Directive.PAUSE: Outcome.PAUSED,
    Directive.DRAIN: Outcome.PREEMPTED,
}


class Halted(Exception):
    """The attempt was told to stop before it had finished."""

    def __init__(self, directive: Directive) -> None:
        super().__init__(directive.value)
        self.directive = directive


class OutOfTime(Exception):
    """The worker must be gone now, so what is not yet handed over stays here."""


class Directives:
    """Set by the heartbeat thread and by the worker's drain file, read by every part of the attempt."""

    def __init__(self, *, drain_deadline: Callable[[], float | None], clock: Callable[[], float] = time.time) -> None:
        self._drain_deadline = drain_deadline
        self._clock = clock
        self._told: set[Directive] = set()
        self._lock = threading.Lock()

    def tell(self, directive: Directive) -> None:
        """Add a directive. There is no way back from one."""
        with self._lock:
            self._told.add(directive)

    def current(self) -> Directive | None:
        """The directive that counts, if any."""
        with self._lock:
            told = set(self._told)
        if self._drain_deadline() is not None:
            told.add(Directive.DRAIN)
        return next((directive for directive in Directive if directive in told), None)

    def check_before_training(self) -> None:
        """Nothing is lost yet, so any directive ends the attempt at once.

        Raises:
            LeaseLost, Halted
        """
        self._check_lease()
        directive = self.current()
        if directive is not None:
            raise Halted(directive)

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
        if self.current() is Directive.LEASE_LOST:
            raise LeaseLost("Another attempt owns the job.")
