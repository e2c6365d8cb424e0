"""Waking workers: "there may be work for hardware of your class". The only module that speaks Celery."""

from typing import Protocol

import structlog
from celery import Celery
from kombu.exceptions import KombuError, OperationalError

from tunesmith.tuning.messages import WAKE_TASK, Wake, wake_queue

log = structlog.get_logger(__name__)

_WAKE_EXPIRES_SECONDS = 120  # an older one says nothing: the keeper has sent another since


class Announcer(Protocol):
    """Wakes workers. Returns whether the wake-up went out; a lost one costs waiting, never a job."""

    def wake(self, worker_class: str) -> bool:
        """Tell the workers of this class to come and ask."""
        ...

    def reachable(self) -> bool:
        """Whether a wake-up would go out now."""
        ...


class SilentAnnouncer:
    """For a service without a broker: jobs are taken in and wait, for nobody is told of them."""

    def wake(self, worker_class: str) -> bool:  # noqa: ARG002
        """Do nothing, successfully."""
        return True

    def reachable(self) -> bool:
        """There is nothing to reach."""
        return False


class CeleryAnnouncer:
    """JSON only, no results, and never long: publishing happens after the commit and may fail."""

    def __init__(self, redis_url: str) -> None:
        self._celery = Celery("tunesmith.service", broker=redis_url, set_as_current=False)
        self._celery.conf.update(
            task_serializer="json",
            accept_content=["json"],
            task_ignore_result=True,
            task_publish_retry=True,
            task_publish_retry_policy={"max_retries": 1, "interval_start": 0.1, "interval_max": 0.2},
            broker_connection_timeout=3,
            broker_transport_options={"socket_timeout": 3, "socket_connect_timeout": 3, "visibility_timeout": 300},
        )

    def wake(self, worker_class: str) -> bool:
        """Publish one wake-up."""
        wake = Wake(worker_class=worker_class).model_dump()
        try:
            self._celery.send_task(
                WAKE_TASK,
                kwargs=wake,
                queue=wake_queue(worker_class),
                expires=_WAKE_EXPIRES_SECONDS,
                ignore_result=True,
            )
        except (OperationalError, KombuError, OSError) as error:
            log.warning("wake.not_sent", worker_class=worker_class, error=type(error).__name__)
            return False
        return True

    def reachable(self) -> bool:
        """Connect and close."""
        try:
            with self._celery.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)
        except (OperationalError, KombuError, OSError):
            return False
        return True


def announcer_for(redis_url: str | None) -> Announcer:
    """The announcer for these settings."""
    return CeleryAnnouncer(redis_url) if redis_url else SilentAnnouncer()
