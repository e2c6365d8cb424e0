"""The questions of a review have the answers that they ought to have, and the documentation lists them all."""

from pathlib import Path

import pytest

from benchmarks.planner.further_questions import FURTHER
from benchmarks.planner.questions import BEGIN, END, QUESTIONS, Question, write
from tunesmith.tuning.plan import Plan
from tunesmith.tuning.words import Method

PAGE = Path(__file__).parents[4] / "docs" / "planner-questions.md"
# What was judged wrong then and is the planner's own to decide, with the method that the reviewer wanted.
RIGHTED = {
    "13B on 2x4090, 8k rows": Method.QLORA,
    "13B on 2x4090, 60k rows": Method.QLORA,
    "8B on 8xA100, 1M rows": Method.FULL,
    "70B on 2xH100": Method.QLORA,
    "8B on 8xH100, 10 rows": Method.LORA,
    "1B on 8xA100, 60k rows of 30 tokens, 2 learned": Method.LORA,
}


def question(text: str) -> Question:
    return next(each for each in QUESTIONS if each.text == text)


def test_there_are_51_different_ones() -> None:
    assert len({each.text for each in QUESTIONS}) == 51
    assert sum(each.verdict == "wrong" for each in QUESTIONS) == 11


@pytest.mark.parametrize(("text", "method"), RIGHTED.items())
def test_what_was_wrong_is_answered_as_the_reviewer_wanted(text: str, method: Method) -> None:
    decision = question(text).answer()
    assert isinstance(decision, Plan)
    assert decision.method is method


def test_slices_of_a_gpu_are_never_joined() -> None:
    decision = question("8B on two slices, A100 3g.40gb").answer()
    assert isinstance(decision, Plan)
    assert decision.world_size == 1


def test_no_answer_fills_more_than_97_percent() -> None:
    for each in QUESTIONS:
        decision = each.answer()
        if isinstance(decision, Plan):
            assert decision.memory.total_bytes <= 0.97 * decision.memory.budget_bytes, each.text


def test_the_page_lists_every_question() -> None:
    page = PAGE.read_text(encoding="utf-8")
    table = page[page.index(BEGIN) : page.index(END)]
    for each in QUESTIONS:
        assert f"| {each.text} | {each.then} | {each.verdict} |" in table


def test_sixty_further_ones_are_listed_and_what_was_wrong_is_said() -> None:
    assert len({each.text for each in FURTHER}) == 60
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"| {each.text} | " in page for each in FURTHER)
    assert all(bool(each.remark) == (each.verdict == "wrong") for each in FURTHER)


def test_writing_the_table_leaves_the_rest_of_the_page_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    write(page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
