"""One place that configures logs: events with fields, for people (console) or for machines (json)."""

import logging
import sys
from typing import Any

import structlog

from tunesmith.tuning.values.redact import scrub

_SECRET_FIELDS = frozenset(
    {"authorization", "api_key", "key", "token", "lease_token", "password", "database_url", "redis_url"}
)


def configure(*, log_format: str, level: str) -> None:
    """Send our events and those of the libraries to standard error, rendered the same way."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_secrets,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_renderer(log_format))
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for noisy in ("uvicorn.access", "httpx2", "httpcore2", "kombu", "amqp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _renderer(log_format: str) -> list[Any]:
    if log_format == "json":
        return [
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
            _scrubbed,
        ]
    # Plain traces: richer ones show local variables, which may be keys, and one database error took them 18 s.
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    return [structlog.stdlib.ProcessorFormatter.remove_processors_meta, console, _scrubbed]


def _scrubbed(_logger: Any, _method: str, line: str) -> str:
    """The last look at a line: traces and messages of libraries may name a URL with its password."""
    return scrub(line)


def _without_secrets(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for name in _SECRET_FIELDS & event.keys():
        event[name] = "[hidden]"
    return event
