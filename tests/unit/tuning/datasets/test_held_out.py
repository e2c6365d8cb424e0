"""Which rows are held out: few, the same everywhere, and none that is trained on as well."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.tuning.cases import data, spec
from tunesmith.tuning.datasets.held_out import held_out_count, held_out_lines, with_held_out_rows

files = st.lists(st.binary(min_size=1, max_size=4).filter(lambda row: row.strip()), max_size=60)


def as_lines(rows: list[bytes]) -> list[bytes]:
    return [row.replace(b"\n", b" ") + b"\n" for row in rows]


@pytest.mark.parametrize(("rows", "count"), [(0, 0), (9, 0), (10, 1), (24, 2), (1999, 199), (2000, 200), (10**6, 200)])
def test_one_row_in_ten_is_held_out_and_at_most_two_hundred(rows: int, count: int) -> None:
    assert held_out_count(rows) == count


@given(files, st.integers(0, 8))
def test_no_row_that_is_held_out_is_also_trained_on(rows: list[bytes], count: int) -> None:
    lines = as_lines(rows)
    chosen = held_out_lines(lines, count=count)
    measured = {lines[number - 1].strip() for number in chosen}
    trained = {line.strip() for number, line in enumerate(lines, start=1) if number not in chosen}
    assert len(chosen) <= count
    assert not measured & trained


@given(st.sets(st.binary(min_size=1, max_size=6).filter(lambda row: row.strip()), min_size=8), st.integers(0, 8))
def test_of_different_rows_exactly_as_many_as_wanted_are_held_out(rows: set[bytes], count: int) -> None:
    different = list({line.strip(): line for line in as_lines(sorted(rows))}.values())
    assert len(held_out_lines(different, count=count)) == min(count, len(different))


@given(st.permutations([b"row %d\n" % index for index in range(40)]))
def test_the_order_of_the_rows_changes_nothing(lines: list[bytes]) -> None:
    ordered = [b"row %d\n" % index for index in range(40)]
    wanted = {ordered[number - 1] for number in held_out_lines(ordered, count=4)}
    assert {lines[number - 1] for number in held_out_lines(lines, count=4)} == wanted


def test_the_choice_is_the_one_that_it_was_when_this_was_written() -> None:
    assert held_out_lines([b"row %d\n" % index for index in range(40)], count=4) == (6, 8, 26, 34)


def test_blank_lines_are_no_rows_and_space_around_a_row_means_nothing() -> None:
    assert held_out_lines([b"\n", b" a \n", b"", b"a\r\n"], count=2) == (2, 4)
    assert held_out_lines([b"a\n", b"a\n", b"a\n"], count=2) == ()


def test_the_counts_are_those_of_the_rows_that_are_left() -> None:
    facts = with_held_out_rows(data(50, tokens_per_row=100), spec())
    assert (facts.rows, facts.held_out_rows, facts.validation_rows, facts.tokens) == (45, 5, 5, 4500)


def test_nothing_is_held_out_beside_a_validation_file_or_when_asked_not_to() -> None:
    beside = data(50).model_copy(update={"validation_rows": 3})
    assert with_held_out_rows(beside, spec()) == beside
    assert with_held_out_rows(data(50), spec(validation="none")) == data(50)
    once = with_held_out_rows(data(50), spec())
    assert with_held_out_rows(once, spec()) == once
