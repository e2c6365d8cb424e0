"""The table that pipelines rely on."""

import pytest

from tunesmith.cli.client import ServiceError, Unreachable
from tunesmith.cli.connection import NoKey, NotConnected
from tunesmith.cli.exit_codes import ExitCode, for_error, for_job
from tunesmith.cli.failures import report
from tunesmith.cli.models.folder import BrokenModel
from tunesmith.tuning.errors import TunesmithError


def test_the_numbers_never_change() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "SUCCEEDED": 0,
        "UNEXPECTED": 1,
        "USAGE": 2,
        "JOB_FAILED": 3,
        "JOB_CANCELLED": 4,
        "TIMED_OUT": 5,
        "GATE": 6,
        "REJECTED": 7,
        "NOT_ALLOWED": 8,
        "UNREACHABLE": 9,
        "NOT_FOUND": 10,
        "INTERRUPTED": 130,
    }


@pytest.mark.parametrize(("state", "code"), [("succeeded", 0), ("failed", 3), ("cancelled", 4)])
def test_a_finished_job_decides_the_code(state: str, code: int) -> None:
    assert for_job(state) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ServiceError("no", http_status=400), 7),
        (ServiceError("no", http_status=401), 8),
        (ServiceError("no", http_status=403), 8),
        (ServiceError("no", http_status=404), 10),
        (ServiceError("no", http_status=500), 1),
        (ServiceError("no", http_status=503), 9),
        (Unreachable("no"), 9),
        (NotConnected("no"), 9),
        (NoKey("no"), 8),
        (BrokenModel("no"), 7),
    ],
)
def test_every_error_has_its_code(error: TunesmithError, code: int) -> None:
    assert for_error(error) == code


def test_an_error_says_what_where_and_what_next(capsys: pytest.CaptureFixture[str]) -> None:
    error = ServiceError("batch_size is 0", http_status=400, param="batch_size", hint="use 1 to 256")
    assert report(error) == ExitCode.REJECTED
    assert capsys.readouterr().err.splitlines() == [
        "error: batch_size is 0",
        "  field: batch_size",
        "  hint: use 1 to 256",
    ]


def test_a_bug_shows_no_stack_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(RuntimeError("surprise")) == ExitCode.UNEXPECTED
    printed = capsys.readouterr().err
    assert "surprise" in printed
    assert "Traceback" not in printed
