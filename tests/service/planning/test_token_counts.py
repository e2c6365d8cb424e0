"""Tokens counted with the model's own tokenizer before a job is planned."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.control_plane import TINY_CONFIG, ControlPlane, chat_rows
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tunesmith.service.tokens.counting import Counter
from tunesmith.tuning.datasets.row_parser import parse_row

TOOL_ROWS = [
    {
        "messages": [
            {"role": "system", "content": "Reply with one short sentence."},
            {"role": "user", "content": "one two three"},
            {"role": "assistant", "content": "three two one"},
            {"role": "user", "content": "four"},
            {"role": "assistant", "content": "four", "weight": 0},
        ]
    }
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


def tokenizer_files(model: Path, **changes: bytes) -> dict[str, bytes]:
    names = ("tokenizer.json", "tokenizer_config.json")
    return {name: (model / name).read_bytes() for name in names} | changes


@pytest.mark.parametrize(
    ("rows", "objective"),
    [
        (runs.chat_rows(30), "supervised"),
        (TOOL_ROWS, "supervised"),
        ([{"prompt": "one two", "completion": " two one"}, {"prompt": "a", "completion": " b"}], "supervised"),
        ([{"text": "one two three four"}], "supervised"),
        (runs.preference_rows(9), "dpo"),
        ([{"prompt": "one", "chosen": "two", "rejected": "three four"}], "dpo"),
    ],
)
def test_it_counts_what_the_trainer_will_count(model: Path, tmp_path: Path, rows: list[Any], objective: str) -> None:
    from tunesmith.worker.train.data.rows import load_rows
    from tunesmith.worker.train.models.model import load_tokenizer

    path = runs.write_rows(tmp_path / "rows.jsonl", rows)
    exact = load_rows(path, tokenizer=load_tokenizer(model), objective=objective, max_sequence_length=2048)
    parsed = [parse_row(json.dumps(row).encode(), number=number) for number, row in enumerate(rows, start=1)]
    tokens, longest, supervised = zip(*[Counter(model).size(row) for row in parsed if row is not None], strict=True)
    assert sum(tokens) == pytest.approx(int(exact.lengths().sum()), rel=0.02)
    assert max(longest) == pytest.approx(max(exact.offsets[1:] - exact.offsets[:-1]), abs=1)
    assert sum(supervised) == pytest.approx(int(exact.supervised_counts().sum()), rel=0.15, abs=2)


def reasons_of(plane: ControlPlane, model: str, rows: bytes) -> tuple[str, dict[str, Any]]:
    body = {"model": model, "training_file": plane.upload(rows)}
    answer = plane.request("POST", "/v1/fine_tuning/plans", json=body).json()
    told = next(reason["text"] for reason in answer["data"][0]["reasons"] if reason["rule"] == "tokens")
    return told, answer["dataset"]


def test_a_plan_and_a_job_rest_on_counted_tokens_and_say_so(control_plane: ControlPlane, model: Path) -> None:
    control_plane.worker()
    control_plane.add_model("counted", more=tokenizer_files(model))
    told, dataset = reasons_of(control_plane, "counted", chat_rows(200))
    assert "measured with the model's tokenizer on 200 of 200 rows" in told
    job = control_plane.create_job(model="counted", training_file=control_plane.upload(chat_rows(200)))
    attempt = control_plane.worker().claim()
    assert attempt is not None
    assert attempt.job_id == job["id"]
    assert attempt.claim.dataset.tokens == dataset["tokens"]
    assert attempt.claim.dataset.measured_rows == 200


def test_of_a_large_file_a_few_stretches_are_counted(control_plane: ControlPlane, model: Path) -> None:
    control_plane.worker()
    control_plane.add_model("counted", more=tokenizer_files(model))
    told, dataset = reasons_of(control_plane, "counted", chat_rows(9_000))
    assert "on 400 of 9,000 rows" in told
    assert dataset["rows"] == 8_800


LOOP = json.dumps(
    {"chat_template": "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}"}
)


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer.json": b"not json"},
        {"tokenizer_config.json": json.dumps({"chat_template": "{{ raise_exception('no') }}"}).encode()},
        {"tokenizer_config.json": LOOP.encode()},
    ],
)
def test_a_model_whose_tokenizer_cannot_count_is_planned_by_estimates(
    control_plane: ControlPlane, model: Path, changes: dict[str, bytes]
) -> None:
    control_plane.worker()
    control_plane.add_model("odd", config=TINY_CONFIG, more=tokenizer_files(model, **changes))
    told, _ = reasons_of(control_plane, "odd", chat_rows(20))
    assert "estimated from bytes" in told


def test_the_service_itself_loads_no_tokenizer() -> None:
    code = "import tunesmith.service.app, sys; sys.exit('tokenizers' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
