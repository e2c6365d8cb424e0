"""No log of the service has a key or a password, whoever wrote the line."""

import logging
from collections.abc import Iterator

import pytest
import structlog

from tunesmith.service import logs

SECRETS = {
    "a broker's address": "redis://:hunter2secret@valkey:6379/0",
    "a database's": "postgresql://tunesmith:hunter2secret@db/tunesmith",
    "libpq's": "postgresql:///tunesmith?host=/run&user=u&password=hunter2secret",
    "a key": "ts-hunter2secrethunter2secrethunter2secret",
}


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], _ = before
    root.setLevel(before[1])
    structlog.reset_defaults()


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS.keys())
def test_a_line_a_trace_and_a_librarys_message_are_scrubbed(
    secret: str, log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(log_format=log_format, level="debug")
    structlog.get_logger("ours").debug("asked", address=secret)
    logging.getLogger("of.a.library").debug("connecting to %s", secret)
    try:
        int(secret)
    except ValueError:
        structlog.get_logger("ours").exception("failed")
    said = capsys.readouterr().err
    assert said.count("[hidden]") >= 3
    assert "hunter2secret" not in said
