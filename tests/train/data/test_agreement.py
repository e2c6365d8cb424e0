"""The trainer takes a file exactly where the check at upload takes it, and names the same line and reason."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from transformers import PreTrainedTokenizerBase

from tests import training_rows
from tests.tiny_model import build_tiny_model
from tunesmith.tuning.datasets.rows import RowChecker, RowReport
from tunesmith.tuning.errors import Failure, JobFailure
from tunesmith.worker.train.data.rows import load_rows
from tunesmith.worker.train.models.model import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return load_tokenizer(build_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows") / "rows.jsonl"


def checked(content: bytes) -> RowReport:
    checker = RowChecker()
    checker.feed(content)
    return checker.finish()


def refused(file: Path, *, objective: str, tokenizer: PreTrainedTokenizerBase) -> Failure | None:
    try:
        load_rows(file, tokenizer=tokenizer, objective=objective, max_sequence_length=1 << 20)
    except JobFailure as failure:
        return failure.failure
    return None


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(content=training_rows.files())
@example(content=b'\xef\xbb\xbf\n{"text": "one two"}')
@example(content=b'{"text": "one two"}\n{"text": ""}')
@example(content=b'{"text": "one two"}\n{"prompt": "one", "completion": "two"}')
@example(content=b'{"messages": [{"role": "assistant", "content": "x", "name": "\\ud800"}]}')
@example(content=b'{"messages": [{"role": "assistant", "content": "x", "weight": null}]}')
@example(content=b'{"text": "\\\\ud83d\\ude00"}')
@example(
    content=b'{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}], "text": "x"}'
)
def test_checker_and_trainer_agree_about_every_file(
    file: Path, tokenizer: PreTrainedTokenizerBase, content: bytes
) -> None:
    file.write_bytes(content)
    report = checked(content)
    failure = refused(file, objective=report.kind, tokenizer=tokenizer)
    if not report.problems:
        assert failure is None or failure.message.startswith("No row of the training file")  # each has lost its words
        return
    assert failure is not None
    assert failure.category == "user_error"
    first = report.problems[0]
    if first.line:
        expected = f"Line {first.line} of the training file cannot be trained on: {first.reason}."
        assert (failure.message, bool(failure.hint)) == (expected, True)
