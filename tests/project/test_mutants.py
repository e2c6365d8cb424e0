"""The list of deliberate breakages stands: each text is where it is looked for, each test exists, the page is whole."""

import ast
import functools
import shlex
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.mutants.breakage import Breakage
from benchmarks.mutants.breakages import BREAKAGES
from benchmarks.mutants.page import Verdict, is_untried, page

ROOT = Path(__file__).parents[2]
EXAMPLE = BREAKAGES[0]


@functools.cache
def names_in(file: Path) -> set[str]:
    """Of the tests in a file, behind their class if they have one."""
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return found


def test_every_promise_that_has_code_is_broken_somewhere() -> None:
    assert len(BREAKAGES) >= 60
    assert {breakage.promise for breakage in BREAKAGES} >= {f"G{number}" for number in range(1, 15)}


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.name)
def test_it_changes_one_place_and_names_tests_that_exist(breakage: Breakage) -> None:
    text = (ROOT / breakage.file).read_text(encoding="utf-8")
    assert breakage.apply(text) != text
    for test in shlex.split(breakage.tests):
        file, _, name = test.partition("::")
        assert name in names_in(ROOT / file), test


def test_no_two_breakages_are_called_the_same() -> None:
    assert [name for name, count in Counter(breakage.name for breakage in BREAKAGES).items() if count > 1] == []


def test_a_text_that_is_not_there_once_is_an_error() -> None:
    with pytest.raises(ValueError, match="occurs 2 times"):
        EXAMPLE._replace(old="a", new="b").apply("a, a")


def test_a_page_keeps_what_was_not_tried_again() -> None:
    first, second = BREAKAGES[:2]
    once = page([Verdict(first, "survived"), Verdict(second, "caught")], earlier="")
    again = page([Verdict(first, "caught")], earlier=once)
    assert f"1 of {len(BREAKAGES)} " in once
    assert f"2 of {len(BREAKAGES)} " in again
    assert again.count("not tried yet") == len(BREAKAGES) - 2


def test_a_run_that_was_interrupted_goes_on_with_what_has_no_verdict() -> None:
    once = page([Verdict(EXAMPLE, "survived")], earlier="")
    untried = [breakage for breakage in BREAKAGES if is_untried(breakage, page=once)]
    assert untried == list(BREAKAGES[1:])
