"""What the check of a file tells beside its errors: repeated rows, rows of another file, secrets, personal data."""

import json

import pytest

from tunesmith.tuning.datasets.doctor.row_hashes import RowHashes, row_hash
from tunesmith.tuning.datasets.doctor.suspicions import Suspicion, suspicions
from tunesmith.tuning.datasets.row_formats import Text
from tunesmith.tuning.datasets.rows import RowChecker, RowReport

# Published examples: AWS's documentation, jwt.io, a test card, the IBAN registry; joined, so that no scanner stops.
SECRETS = {
    "key " + "AKIA" + "IOSFODNN7EXAMPLE": Suspicion.ACCESS_KEY,
    "-----BEGIN RSA " + "PRIVATE KEY-----": Suspicion.PRIVATE_KEY,
    "write to\nanna.b@example.org.": Suspicion.EMAIL,
    "call +49 30 1234567 now": Suspicion.PHONE_NUMBER,
    "card 4111 1111 1111 1111": Suspicion.CARD_NUMBER,
    "pay to DE89 3704 0044 0532 0130 00": Suspicion.BANK_ACCOUNT,
    "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0." + "dozjgNryP4J3jVmNHl0w5N": Suspicion.TOKEN,
}


def line_of(text: str) -> bytes:
    return json.dumps({"text": text}).encode() + b"\n"


def check(*texts: str, hashes: RowHashes | None = None, other: RowHashes | None = None) -> RowReport:
    checker = RowChecker(hashes=hashes, other=other)
    for text in texts:
        checker.feed(line_of(text))
    return checker.finish()


@pytest.mark.parametrize(("text", "kind"), SECRETS.items(), ids=[kind.value for kind in SECRETS.values()])
def test_what_looks_like_a_secret_or_a_person_is_suspected(text: str, kind: Suspicion) -> None:
    assert list(suspicions(line_of(text))) == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "card 4111 1111 1111 1112",
        "pay to DE89 3704 0044 0532 0130 01",
        "0000 0000 0000 0000",
        "x @ y",
        "task-list and sk-short",
        "1 + 1234567",
        "3.14159265358979323846",
    ],
)
def test_what_only_resembles_one_is_not(text: str) -> None:
    assert list(suspicions(line_of(text))) == []


def test_the_report_names_lines_and_never_values() -> None:
    report = check("fine", "write to anna.b@example.org", "and to eve@example.com")
    assert report.suspected[Suspicion.EMAIL].lines == (2, 3)
    assert "example" not in report.model_dump_json()


def test_a_row_that_says_the_same_is_repeated_whatever_the_order_of_its_keys() -> None:
    checker = RowChecker()
    checker.feed(b'{"prompt": "a", "completion": "b"}\n{"completion":"b","prompt":"a"}\n')
    assert checker.finish().repeated.lines == (2,)


def test_only_the_first_lines_are_kept_of_many() -> None:
    repeated = check(*["same"] * 100).repeated
    assert (repeated.count, repeated.lines) == (99, (2, 3, 4, 5, 6))


def test_rows_of_the_other_file_are_told() -> None:
    training = RowHashes()
    check("a", "b", "c", hashes=training)
    assert check("d", "b", other=training).shared.lines == (2,)


def test_a_table_that_may_not_grow_says_what_it_did_not_keep() -> None:
    hashes = RowHashes(most_bytes=8 * 1024)
    again = [hashes.add(row_hash(Text(str(number)))) for number in range(1000)]
    assert not any(again)
    assert hashes.dropped == 1000 - 768
    assert row_hash(Text("3")) in hashes
    assert row_hash(Text("999")) not in hashes


def test_a_problem_says_what_to_do() -> None:
    checker = RowChecker()
    checker.feed(b'{"promt": "a", "completion": "b"}\n')
    assert checker.finish().problems[0].fix
