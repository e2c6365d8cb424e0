"""The wake-up: ask the service for work until none fits. A lost, doubled or forged message is harmless."""

from contextlib import closing
from typing import Any

import structlog
from celery import shared_task
from pydantic import ValidationError

import worker.app  # noqa: F401 - connects the set-up of logs in each pool process
from tuning.messages import WAKE_TASK, Wake
from worker.station import Station

log = structlog.get_logger(__name__)


@shared_task(name=WAKE_TASK)  # type: ignore[untyped-decorator]
def wake(*_: Any, **payload: Any) -> None:
    """Validate the payload, then claim and run, one attempt after another, while a slot and work can be had."""
    try:
        Wake.model_validate(payload)
    except ValidationError:
        log.warning("wake.malformed", keys=sorted(payload)[:8])
        return
    with closing(Station.from_environment()) as station:
        while station.run_next():
            pass
