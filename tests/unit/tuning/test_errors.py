"""Failures and errors cross processes and versions whole."""

import pickle

import pytest

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import (
    Category,
    Failure,
    InvalidRequest,
    InvalidTransition,
    JobFailure,
    TunesmithError,
)

STORED_BEFORE_SIGNALS = """{"code": "trainer_killed", "message": "It was killed.", "param": null,
    "category": "worker_lost", "retryable": true, "hint": null, "log_tail": null}"""


def test_a_failure_that_was_stored_before_signals_were_still_loads() -> None:
    loaded = Failure.model_validate_json(STORED_BEFORE_SIGNALS)
    assert (loaded.code, loaded.category, loaded.signal) == (ErrorCode.TRAINER_KILLED, Category.WORKER_LOST, None)


def test_a_failure_of_another_version_may_have_a_code_that_is_unknown_here() -> None:
    loaded = Failure.model_validate({"code": "of_next_year", "message": "It is new."})
    assert JobFailure(loaded).code == "of_next_year"


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("No.", code=ErrorCode.INVALID_VALUE, param="seed", hint="Use 0."),
        InvalidRequest("No."),
        InvalidTransition(state="queued", transition="resume"),
        JobFailure(Failure(code="of_next_year", message="It is new.", signal="SIGKILL")),
    ],
)
def test_an_error_is_the_same_after_pickling(error: TunesmithError) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
