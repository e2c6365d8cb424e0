"""Every error code is a member of `ErrorCode`, raised somewhere, and explained."""

import ast

import pytest

from benchmarks.error_codes import all_raised, meanings, modules, strings_for_codes
from tunesmith.tuning.codes import ErrorCode


def test_no_code_is_raised_or_compared_as_a_string() -> None:
    found = [f"{path}:{line}" for path, tree in modules().items() for line in strings_for_codes(tree)]
    assert found == []


@pytest.mark.parametrize(
    "statement",
    [
        'raise NotFound("No file.", code="file_gone")',
        'raise NotFound("No file.", code="file_gone" if found else ErrorCode.FILE_NOT_FOUND)',
        'Failure(code=KILLED, message="It was killed.")',
        'raise user_error("row_too_long", "It is too long.", hint="Cut it.")',
        'class Broken(InvalidRequest):\n    code = "broken"',
        'class Broken(InvalidRequest):\n    code: str = "broken"',
        'event(data={"code": "poison"})',
        'failure.code == "worker_lost"',
        'job["error"]["code"] != "worker_lost"',
    ],
)
def test_a_code_that_is_a_string_is_found(statement: str) -> None:
    assert strings_for_codes(ast.parse(statement)), statement


@pytest.mark.parametrize(
    "statement",
    [
        'raise NotFound("No file.", code=ErrorCode.FILE_NOT_FOUND)',
        "failure.code == ErrorCode.WORKER_LOST",
        "failure.code in FAULTS",
        'ServiceError("No.", code=body.get("code"))',
        'event(data={"code": failure.code})',
    ],
)
def test_a_member_or_a_code_that_is_passed_on_is_no_string(statement: str) -> None:
    assert strings_for_codes(ast.parse(statement)) == []


def test_every_code_is_raised_somewhere() -> None:
    assert set(ErrorCode) - {found.code for found in all_raised()} == set()


def test_every_code_says_what_happened_and_what_to_do() -> None:
    assert set(meanings()) == set(ErrorCode.__members__)
    assert [name for name, (meaning, advice) in meanings().items() if not meaning or not advice.endswith(".")] == []


def test_a_member_is_named_as_its_code() -> None:
    assert [code for code in ErrorCode if code.name.lower() != code.value] == []
