"""Handing wake-ups to the pool, and knowing how many are on their way there or at work."""

import threading
from typing import Any

from celery import Celery, signals
from celery.worker import state

from tunesmith.tuning.messages import WAKE_TASK, Wake


class PoolCalls:
    """The pool of one Celery application, as threads of its main process call it."""

    def __init__(self, app: Celery, *, worker_class: str) -> None:
        self._app = app
        self._wake = Wake(worker_class=worker_class).model_dump()
        self._lock = threading.Lock()
        self._sent = 0
        self._received = 0
        signals.task_received.connect(self._count, weak=False)

    def wake(self) -> None:
        """Have one pool process ask for work, as soon as one is free."""
        with self._lock:
            self._sent += 1
        self._app.send_task(WAKE_TASK, kwargs=self._wake, ignore_result=True)

    def under_way(self) -> int:
        """Calls that no pool process has come to the end of."""
        with self._lock:
            return self._sent - self._received + len(state.reserved_requests)

    def _count(self, **_: Any) -> None:
        with self._lock:
            self._received += 1
