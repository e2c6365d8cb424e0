"""The thread that keeps an attempt's lease alive and hears what the user wants.

When no heartbeat gets through, the trainer keeps running: a lease that ran out costs GPU minutes, never correctness,
because every write is fenced. Only the service's own word that the lease is gone ends the run.
"""

import threading
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from tunesmith.tuning.errors import LeaseLost, brief
from tunesmith.tuning.messages import HeartbeatReply
from tunesmith.worker.attempt.progress import Progress
from tunesmith.worker.attempt.stop_requests import StopRequest, StopRequests
from tunesmith.worker.transport.control import AttemptControl


class Heartbeat:
    """Beats in the background between `start` and `stop`."""

    def __init__(
        self,
        control: AttemptControl,
        *,
        progress: Progress,
        directives: StopRequests,
        interval_seconds: float,
        log: FilteringBoundLogger,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        self._control = control
        self._progress = progress
        self._directives = directives
        self._interval_seconds = interval_seconds
        self._log = log
        self._wait = wait
        self._stopped = threading.Event()
        self._missed = 0
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to beat, at once for the first time."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; waits at most for the beat that is under way."""
        self._stopped.set()
        self._thread.join(timeout=15)

    def _run(self) -> None:
        while not self._stopped.is_set() and self._beat():
            self._wait(self._stopped, self._interval_seconds)

    def _beat(self) -> bool:
        """Send one heartbeat; False when there will be no use for another."""
        try:
            reply = self._control.heartbeat(self._progress.beat())
        except LeaseLost:
            self._directives.tell(StopRequest.LEASE_LOST)
            return False
        except Exception as error:  # whatever it was: without this thread the lease would run out
            self._note_missed(error)
            return True
        self._note_answered()
        self._obey(reply)
        return True

    def _obey(self, reply: HeartbeatReply) -> None:
        if reply.cancel:
            self._directives.tell(StopRequest.CANCEL)
        if reply.pause:
            self._directives.tell(StopRequest.PAUSE)

    def _note_missed(self, error: Exception) -> None:
        self._missed += 1
        if self._missed == 1:
            self._log.warning("heartbeat.missed", error=brief(error))

    def _note_answered(self) -> None:
        if self._missed:
            self._log.info("heartbeat.recovered", missed=self._missed)
        self._missed = 0
