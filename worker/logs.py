"""Where the worker's own log lines go: structured, on standard error, with secrets taken out."""

import logging
import sys

import structlog
from structlog.typing import EventDict, Processor

from tunesmith.tuning.values.redact import scrub


def configure_logs(log_format: str) -> None:
    """Set up structlog and route the standard library's warnings of Celery and httpx2 through the same lines."""
    structlog.configure(
        processors=[*_shared_processors(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: Processor = (
        structlog.dev.ConsoleRenderer() if log_format == "console" else structlog.processors.JSONRenderer()
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_shared_processors(),
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, scrub_event, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for chatty in ("httpx2", "httpcore2", "celery", "kombu"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def scrub_event(_logger: object, _method: str, event: EventDict) -> EventDict:
    """A processor that removes anything that looks like a secret from every string of an event."""
    return {key: scrub(value) if isinstance(value, str) else value for key, value in event.items()}


def _shared_processors() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
