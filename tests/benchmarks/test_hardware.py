"""The page of known GPUs is the table that the planner uses."""

from pathlib import Path

from benchmarks.hardware import hardware_page


def test_the_page_in_the_docs_is_the_one_that_is_written() -> None:
    page = Path(__file__).parents[2] / "docs" / "hardware.md"
    assert page.read_text(encoding="utf-8") == hardware_page()
