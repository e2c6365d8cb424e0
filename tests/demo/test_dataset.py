"""The demo's rows: real, unique, and without a leak from one side of the split to the other."""

import ast
import json
from pathlib import Path

import pytest

from tunesmith.local.demo import dataset


@pytest.fixture(scope="module")
def split() -> dataset.Split:
    return dataset.build(training_rows=240, held_out_rows=32)


def test_no_module_is_on_both_sides(split: dataset.Split) -> None:
    training = {example.top_level for example in split.training}
    held_out = {example.top_level for example in split.held_out}
    assert training
    assert held_out
    assert training.isdisjoint(held_out)


def test_no_source_and_no_answer_appears_twice(split: dataset.Split) -> None:
    examples = [*split.training, *split.held_out]
    assert len({" ".join(example.source.split()) for example in examples}) == len(examples)
    assert len({example.answer.lower() for example in examples}) == len(examples)


def test_no_source_contains_its_answer(split: dataset.Split) -> None:
    assert not [example for example in split.training if example.answer in example.source]


def test_every_source_is_one_function_without_its_docstring(split: dataset.Split) -> None:
    for example in split.training:
        (node,) = ast.parse(example.source).body
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        assert ast.get_docstring(node) is None


def test_the_sizes_are_what_was_asked_for(split: dataset.Split) -> None:
    assert (len(split.training), len(split.held_out)) == (240, 32)
    assert all(len(example.source) <= dataset.LONGEST_SOURCE_CHARACTERS for example in split.training)


def test_the_same_library_gives_the_same_rows(tmp_path: Path) -> None:
    write_library(tmp_path)
    first, second = (dataset.build(training_rows=2, held_out_rows=1, library=tmp_path) for _ in range(2))
    assert first == second


def test_a_library_that_is_too_small_is_an_error(tmp_path: Path) -> None:
    write_library(tmp_path)
    with pytest.raises(ValueError, match="functions found"):
        dataset.build(training_rows=50, held_out_rows=5, library=tmp_path)


def test_a_row_is_a_chat_that_ends_with_the_answer(tmp_path: Path, split: dataset.Split) -> None:
    path = dataset.write_jsonl(tmp_path / "rows.jsonl", split.held_out)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [message["role"] for message in rows[0]["messages"]] == ["system", "user", "assistant"]
    assert [row["messages"][-1]["content"] for row in rows] == [example.answer for example in split.held_out]


def test_tests_and_broken_files_are_left_out(tmp_path: Path) -> None:
    write_library(tmp_path)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "inside.py").write_text(function("never", "Never look at the tests of the library."))
    (tmp_path / "broken.py").write_text("def (")
    found = dataset.build(training_rows=2, held_out_rows=1, library=tmp_path)
    assert {example.name for example in [*found.training, *found.held_out]}.isdisjoint({"never", "broken"})
    with pytest.raises(ValueError, match="found"):
        dataset.build(training_rows=4, held_out_rows=1, library=tmp_path)


def test_one_source_on_two_places_is_taken_once(tmp_path: Path) -> None:
    for name in ("one.py", "two.py", "three.py"):
        (tmp_path / name).write_text(function("same", "Do the very same thing."))
    with pytest.raises(ValueError, match=r"only 0 \+ 1 functions"):
        dataset.build(training_rows=1, held_out_rows=1, library=tmp_path)


def write_library(folder: Path) -> None:
    (folder / "package").mkdir()
    for number, name in enumerate(("one.py", "two.py", "package/__init__.py", "package/inner.py")):
        (folder / name).write_text(function(f"function_{number}", f"Do the thing of number {number}."))


def function(name: str, docstring: str) -> str:
    return (
        f'def {name}(first, second):\n    """{docstring}\n\n    More text.\n    """\n'
        f"    total = first + second\n    total_of_{name} = total * 2\n    return total_of_{name}\n"
    )
