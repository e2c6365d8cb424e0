"""The thread by which the service sees that this worker lives, and what it has to offer at the moment."""

import threading
from collections.abc import Callable

import structlog

from tunesmith.tuning.errors import NotFound, brief
from tunesmith.tuning.messages import WorkerHeartbeat
from tunesmith.worker.transport.control import ControlPlane

log = structlog.get_logger(__name__)


class WorkerHeartbeatThread:
    """Sends worker heartbeats until the process ends; registers anew when the service has forgotten the worker.

    `answered` is called after each heartbeat that was.
    """

    def __init__(
        self,
        control: ControlPlane,
        *,
        worker_id: str,
        interval_seconds: float,
        beat: Callable[[], WorkerHeartbeat],
        register: Callable[[], object],
        answered: Callable[[], object],
    ) -> None:
        self._control = control
        self._worker_id = worker_id
        self._interval_seconds = interval_seconds
        self._beat = beat
        self._register = register
        self._answered = answered
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def beat_now(self) -> None:
        """Send the next heartbeat at once, because something changed. Safe to call from a signal handler."""
        self._hurry.set()

    def _run(self) -> None:
        while True:
            try:
                self._control.worker_heartbeat(self._worker_id, self._beat())
                self._answered()
            except NotFound:
                self._register_again()
            except Exception as error:  # whatever it was: a worker without this thread counts as dead
                log.warning("worker.heartbeat_missed", error=brief(error))
            self._hurry.wait(self._interval_seconds)
            self._hurry.clear()

    def _register_again(self) -> None:
        try:
            self._register()
        except Exception as error:
            log.warning("worker.registration_missed", error=brief(error))
