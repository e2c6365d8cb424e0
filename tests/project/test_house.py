"""The source stays a house: no full folder, no long function, no long file, nothing untyped."""

from pathlib import Path

import pytest

from benchmarks.house.__main__ import ROOT, SOURCE
from benchmarks.house.measure import Tree, folder_sizes, measure, read
from benchmarks.house.report import FULL_FOLDER_FILES, LONG_FUNCTION_LINES, house_page, percentile

LONG_FILE_LINES = 400


@pytest.fixture(scope="module")
def house() -> Tree:
    return measure("all source", [ROOT / name for name in SOURCE])


def test_no_folder_has_more_files_than_a_reader_can_survey() -> None:
    # Migrations are read one by one, and their number only grows.
    sizes = folder_sizes([ROOT / name for name in (*SOURCE, "tests", "benchmarks")])
    assert {folder: number for folder, number in sizes.items() if number > FULL_FOLDER_FILES} == {}


def test_no_function_is_too_long_to_see_whole(house: Tree) -> None:
    assert [(f.file, f.name) for f in house.functions if f.lines > LONG_FUNCTION_LINES] == []


def test_no_file_is_too_long_to_read_at_once(house: Tree) -> None:
    assert [source.path for source in house.sources if source.lines > LONG_FILE_LINES] == []


def test_functions_are_no_longer_than_when_they_were_first_counted(house: Tree) -> None:
    lines = [function.lines for function in house.functions]
    assert (percentile(lines, 50), percentile(lines, 95)) <= (6, 22)


def test_every_function_says_what_it_returns(house: Tree) -> None:
    assert [(f.file, f.name) for f in house.functions if not f.returns_typed] == []


def test_a_file_is_measured_by_its_syntax(tmp_path: Path) -> None:
    file = tmp_path / "one.py"
    file.write_text(
        '"""Said."""\n\n# why\n'
        "def waits(delay: float) -> None:\n"
        '    """Sleep.\n\n    Raises:\n        Late: it was.\n    """\n'
        "    raise Late\n\n\n"
        "class _Hidden:\n    def shown(self): ...\n"
    )
    source = read(file)
    waits, shown = source.functions
    assert (source.lines, source.comment_lines, source.docstring_lines) == (10, 1, 6)
    assert (waits.lines, waits.is_public, waits.has_numbers, waits.raises_errors) == (7, True, True, True)
    assert (shown.is_public, shown.returns_typed) == (False, False)


def test_the_page_has_a_row_for_each_tree(house: Tree) -> None:
    written = house_page([house], {"tuning": 13, "worker": 16})
    assert "| all source |" in written
    assert "the fullest is `worker` with 16 files, over 15: worker" in written
