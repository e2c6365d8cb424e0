"""The wake-up: ask the service for work until none fits. A lost, doubled or forged message is harmless."""

import functools
from typing import Any

import structlog
from celery import shared_task, signals
from pydantic import ValidationError

import tunesmith.worker.daemon.celery_app  # noqa: F401 - connects the set-up of logs in each pool process
from tunesmith.tuning.messages import WAKE_TASK, Wake
from tunesmith.worker.daemon.pool_worker import PoolWorker, leave_sigterm_to_the_main_process

log = structlog.get_logger(__name__)


@functools.cache
def _station() -> PoolWorker:
    """One for the life of this pool process: connections, verified models and a warm trainer serve every attempt."""
    return PoolWorker.from_environment()


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _get_ready(**_: Any) -> None:
    """As soon as the pool process is there, so that the first job finds a warm trainer."""
    _station().warm_up()


@shared_task(name=WAKE_TASK)  # type: ignore[untyped-decorator]
def wake(*_: Any, **payload: Any) -> None:
    """Validate the payload, then claim and run, one attempt after another, while a slot and work can be had."""
    try:
        Wake.model_validate(payload)
    except ValidationError:
        log.warning("wake.malformed", keys=sorted(payload)[:8])
        return
    leave_sigterm_to_the_main_process()
    while _station().run_next():
        pass
