"""Tables and JSON arrays become JSON lines, and what is broken is told with its place."""

import csv
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunesmith.cli.data.conversion import as_json_lines
from tunesmith.tuning.errors import InvalidTrainingFile


def rows_of(path: Path) -> list[Any]:
    with as_json_lines(path) as converted:
        return [json.loads(line) for line in converted.read_text().splitlines()]


def csv_file(path: Path, *rows: tuple[str, ...]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_a_csv_of_prompts_keeps_quotes_and_lines(tmp_path: Path) -> None:
    file = csv_file(tmp_path / "a.csv", ("Prompt", "Completion", "id"), ('say "hi"\nnow, please', "hi", "7"))
    assert rows_of(file) == [{"prompt": 'say "hi"\nnow, please', "completion": "hi"}]


def test_instruction_and_input_are_the_prompt(tmp_path: Path) -> None:
    file = csv_file(tmp_path / "a.csv", ("instruction", "input", "output"), ("add", "1 2", "3"), ("sing", "", "la"))
    assert [row["prompt"] for row in rows_of(file)] == ["add\n\n1 2", "sing"]


def test_messages_of_a_csv_are_json(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    file = csv_file(tmp_path / "a.csv", ("messages",), (json.dumps(messages),))
    assert rows_of(file) == [{"messages": messages}]


def test_a_parquet_table_of_messages_loses_the_nulls_it_added(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "a", "name": "x"}, {"role": "assistant", "content": "b"}]
    pq.write_table(pa.Table.from_pylist([{"messages": messages}]), tmp_path / "a.parquet")
    assert rows_of(tmp_path / "a.parquet") == [{"messages": messages}]


def test_a_json_array_is_read_piece_by_piece(tmp_path: Path) -> None:
    rows = [{"prompt": f"{number} [,]", "completion": "x" * number * 50} for number in range(300)]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    assert rows_of(tmp_path / "a.json") == rows


def test_json_lines_are_left_alone(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.json"):
        (tmp_path / name).write_text('{"text": "a"}\n')
        with as_json_lines(tmp_path / name) as same:
            assert same == tmp_path / name


def test_a_broken_quote_in_line_90000_is_told_in_bounded_memory(tmp_path: Path) -> None:
    lines = ["prompt,completion", *(f"question {number},answer" for number in range(2, 120_000))]
    lines[89_999] = '"question,answer'
    (tmp_path / "a.csv").write_text("\n".join(lines))
    tracemalloc.start()
    with pytest.raises(InvalidTrainingFile, match="begins in line 90,000") as caught, as_json_lines(tmp_path / "a.csv"):
        pass
    assert tracemalloc.get_traced_memory()[1] < 16 * 1024**2
    tracemalloc.stop()
    assert "quote" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.csv", "prompt,completion\na,b\na,b,c\n", "line 3 has 3 fields"),
        ("a.csv", "first,second\na,b\n", "columns first, second"),
        ("a.csv", "prompt,completion\n", "no rows"),
        ("a.csv", "messages\nhello\n", "line 2: messages is no JSON"),
        ("a.json", '[{"text": "a"}, {"text": ', "row 2 is broken"),
        ("a.json", '[{"text": "a"} {"text": "b"}]', "no comma before row 2"),
        ("a.json", "[1]", "row 1 is no object"),
        ("a.parquet", "PAR1", "damaged"),
    ],
)
def test_what_is_broken_is_told_with_its_place(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidTrainingFile, match=reason) as caught, as_json_lines(tmp_path / name):
        pass
    assert caught.value.hint
