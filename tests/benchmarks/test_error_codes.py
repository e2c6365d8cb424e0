"""The page of error codes is what the program raises now."""

from pathlib import Path

from benchmarks.error_codes import error_page


def test_the_page_in_the_docs_is_the_one_that_is_written() -> None:
    page = Path(__file__).parents[2] / "docs" / "errors.md"
    assert page.read_text(encoding="utf-8") == error_page()
