"""The thread that takes wake-ups out of the broker's queue, and says whether there is a broker to take them from.

Whatever lies in the queue is a wake-up, for it is a hint: what cannot be read, or was meant for something else, costs
one question to the service. Nothing that a broker does or refuses ends the worker.
"""

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import structlog
from kombu import Connection
from redis.backoff import NoBackoff
from redis.retry import Retry

from tunesmith.tuning.errors import brief

log = structlog.get_logger(__name__)

WAIT_SECONDS: Final = 5.0  # of one request: less than the time after which a broker that is silent counts as away
_OPTIONS = {
    "socket_timeout": 10,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "max_connections": 2,
    "max_retries": 1,  # kombu's own, of a first connection; without pauses: those are ours
    "interval_start": 0,
    "interval_step": 0,
}
_BUSY_SECONDS = 0.1  # between two looks at the slots while none is free
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 5.0
_REMINDER_SECONDS = 600.0


class BrokerThread:
    """Takes a wake-up only while a slot is free, so that the others stay in the queue for other workers.

    `is_away` is set while the broker does not serve, from its first failure on.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        queue: str,
        free_slots: Callable[[], int],
        wake: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.is_away = threading.Event()
        self._redis_url = redis_url
        self._queue = queue
        self._free_slots = free_slots
        self._wake = wake
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._connection: Connection | None = None
        self._client: Any = None
        self._away_since: float | None = None
        self._reminded_at = 0.0
        self._pause_seconds = _FIRST_PAUSE_SECONDS

    def start(self) -> None:
        """Begin to listen, until the process ends."""
        threading.Thread(target=self._run, name="broker", daemon=True).start()

    def listen_once(self) -> None:
        """Wait for a wake-up, or, while the broker is away, look whether it is back."""
        try:
            if not self._free_slots():
                self._sleep(_BUSY_SECONDS)
            elif self._take(waits=self._client is not None):
                self._wake()
        except Exception as error:  # whatever it was: without this thread the worker would idle and say nothing
            self._note_away(error)

    def _run(self) -> None:
        while True:
            self.listen_once()

    def _take(self, *, waits: bool) -> bool:
        """The first request of a connection does not wait: it finds out whether the broker serves this queue."""
        if waits:
            return self._client.brpop(self._queue, timeout=WAIT_SECONDS) is not None
        self._connection = Connection(self._redis_url, transport_options=_OPTIONS)
        client = self._connection.default_channel.client
        client.set_retry(Retry(NoBackoff(), 0))
        is_woken = client.rpop(self._queue) is not None
        self._client = client
        self._note_serving()
        return is_woken

    def _note_serving(self) -> None:
        if self._away_since is None:
            log.info("worker.wake_ups", by="broker")
        else:
            log.warning("broker.back", away_seconds=round(self._clock() - self._away_since, 1))
        self._away_since, self._pause_seconds = None, _FIRST_PAUSE_SECONDS
        self.is_away.clear()
        for _ in range(self._free_slots()):  # wake-ups may have been lost, and work wait
            self._wake()

    def _note_away(self, error: Exception) -> None:
        self._let_go()
        now = self._clock()
        if self._away_since is None:
            self._away_since = self._reminded_at = now
            log.warning("broker.away", error=brief(error), wake_ups="http")
        elif now - self._reminded_at >= _REMINDER_SECONDS:
            self._reminded_at = now
            log.warning("broker.still_away", error=brief(error), away_seconds=round(now - self._away_since))
        self.is_away.set()
        self._sleep(self._pause_seconds * (0.5 + self._jitter() / 2))
        self._pause_seconds = min(self._pause_seconds * 2, _LONGEST_PAUSE_SECONDS)

    def _let_go(self) -> None:
        connection, self._connection, self._client = self._connection, None, None
        if connection is not None:
            with suppress(Exception):
                connection.release()
