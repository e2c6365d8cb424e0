"""The worker's side of the broker: a message that cannot be read is dropped with a line in the log, and nothing else.

Kombu lets such a message end the consumer, and with it the worker: https://github.com/celery/kombu, `_brpop_read`.
"""

from typing import Any

import structlog
from kombu import Connection
from kombu.exceptions import KombuError, OperationalError
from kombu.transport import TRANSPORT_ALIASES, redis

log = structlog.get_logger(__name__)

_PATIENCE_SECONDS = 3.0
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)


class Channel(redis.Channel):  # type: ignore[misc]
    """Kombu's, that survives what others put into its queue."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except _UNREADABLE as error:
            log.warning("wake.unreadable", error=f"{type(error).__name__}: {error}"[:200])
            return True


class Transport(redis.Transport):  # type: ignore[misc]
    """Kombu's, with our channel."""

    Channel = Channel


def reachable(redis_url: str) -> bool:
    """Whether the broker answers within a few seconds."""
    use_careful_transport()
    options = {"socket_timeout": _PATIENCE_SECONDS, "socket_connect_timeout": _PATIENCE_SECONDS}
    try:
        with Connection(redis_url, transport_options=options) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=_PATIENCE_SECONDS)
    except (OperationalError, KombuError, OSError, ValueError) as error:
        log.warning("worker.broker_not_reachable", error=type(error).__name__)
        return False
    return True


def use_careful_transport() -> None:
    """From now on `redis://` in this process means the transport above.

    To be called before the first connection: kombu keeps what it has found for a name.
    """
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
