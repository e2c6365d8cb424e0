"""Pages of docs/ that benchmarks write: narrow, and right whatever a foreign error message holds."""

import re
from collections import Counter

from benchmarks.families.report import families_page
from benchmarks.families.sweep import Family
from benchmarks.machine import setting
from benchmarks.pages import COLUMNS, Reasons, paragraph, plain, table
from benchmarks.templates.report import Result, templates_page

LONG = "ValueError: either a | b, not <class 'x'>\nat `f(a | b)` " + "again and " * 30


def test_a_cell_holds_neither_bars_nor_line_breaks() -> None:
    lines = table(("one", "two"), [("a | b", "c\nd"), ("", 3)]).splitlines()
    assert lines == ["| one | two |", "|---|---|", "| a \\| b | c d |", "| | 3 |"]


def test_foreign_text_is_printed_as_it_is() -> None:
    assert plain("a <b> | *c* [d]\n e") == "a \\<b> \\| \\*c\\* \\[d] e"
    assert plain("use `a < b | c`") == "use `a < b | c`"
    assert plain("it's `a") == "it's 'a"


def test_equal_reasons_share_a_number() -> None:
    reasons = Reasons()
    assert [reasons.number(text) for text in ("x", "y", "x")] == [1, 2, 1]
    assert reasons.listed() == "1. x\n2. y"


def test_paragraphs_keep_within_the_width() -> None:
    assert max(map(len, paragraph("word " * 100).splitlines())) <= COLUMNS


def test_the_page_of_families_is_narrow_and_complete() -> None:
    families = [
        Family("llama", "packed", difference=3e-7),
        Family("bloom", "unpacked", LONG, 2e-7, "eager"),
        Family("xglm", "unpacked", LONG, 2e-7, "eager"),
    ]
    page = families_page(families, of=196)
    assert "3 of 196 model types: 2 unpacked, 1 packed." in " ".join(page.split())
    assert "| llama | packed | | 3e-07 | | |\n| bloom | unpacked | eager | 2e-07 | | 1 |\n| xglm |" in page
    assert page.count("ValueError") == 1
    assert "`wrong`" not in page
    check_width(page)


def test_the_page_of_templates_is_narrow_and_complete() -> None:
    results = [
        Result("a", 11, Counter(["its words"]), 12, Counter()),
        Result("b", None, Counter(), 11, Counter([LONG])),
    ]
    page = templates_page(results)
    assert "| a | 11 of 12 | 1 (1) | 12 of 12 | |\n| b | no twin | | 11 of 12 | 1 (2) |" in page
    assert "2 templates and 1 marked twins" in " ".join(page.split())
    check_width(page)


def test_a_setting_names_date_machine_and_versions() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d, .+, \d+ cores, \d+ GiB; Python [\d.]+, torch 2\S+", setting("torch"))


def check_width(page: str) -> None:
    assert max(map(len, page.splitlines())) <= COLUMNS
