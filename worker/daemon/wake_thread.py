"""The thread that asks the service for wake-ups, while no broker brings them: one request at a time, that waits."""

import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from tunesmith.tuning.errors import brief
from tunesmith.worker.transport.control import ControlPlane

log = structlog.get_logger(__name__)

WAIT_SECONDS: Final = 25.0  # of one request: less than proxies commonly allow
_BUSY_SECONDS = 0.5  # between two looks at the slots while none is free
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0


class WakeThread:
    """Asks only while a slot is free. What it wakes claims for itself: a wake-up too many finds nothing.

    With `wanted` it asks while that is set.
    """

    def __init__(
        self,
        control: ControlPlane,
        *,
        worker_class: str,
        free_slots: Callable[[], int],
        wake: Callable[[], object],
        wanted: threading.Event | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._control = control
        self._worker_class = worker_class
        self._free_slots = free_slots
        self._wake = wake
        self._wanted = wanted
        self._sleep = sleep
        self._seen: int | None = None
        self._pause_seconds = _FIRST_PAUSE_SECONDS

    def start(self) -> None:
        """Begin to ask, until the process ends."""
        threading.Thread(target=self._run, name="wakes", daemon=True).start()

    def ask_once(self) -> None:
        """One request, and the wake-ups that came of it. At the first all free slots are woken: work may wait."""
        try:
            if free := self._free_slots():
                self._ask(free)
            else:
                self._sleep(_BUSY_SECONDS)
        except Exception as error:  # whatever it was: without this thread the worker would idle and say nothing
            log.warning("wakes.not_heard", error=brief(error))
            self._rest()

    def _run(self) -> None:
        while True:
            if self._wanted is not None:
                self._wanted.wait()
            self.ask_once()

    def _ask(self, free: int) -> None:
        answer = self._control.next_wakes(self._worker_class, seen=self._seen, wait_seconds=WAIT_SECONDS)
        for _ in range(free if self._seen is None else min(answer.wakes, free)):
            self._wake()
        self._seen, self._pause_seconds = answer.seen, _FIRST_PAUSE_SECONDS

    def _rest(self) -> None:
        self._sleep(self._pause_seconds)
        self._pause_seconds = min(self._pause_seconds * 2, _LONGEST_PAUSE_SECONDS)
