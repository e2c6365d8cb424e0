"""The page about chat templates: our loss mask beside that of each marked twin, and under the template as published."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.machine import setting
from benchmarks.pages import Reasons, page, paragraph, table
from benchmarks.templates.compare import compare
from benchmarks.templates.conversations import CONVERSATIONS
from benchmarks.templates.differences import LINE_BREAK, explain
from benchmarks.templates.properties import marked, violations
from benchmarks.templates.twins import PACKAGE, Template
from tunesmith.worker.train.chat.conversation import UnknownTurn
from tunesmith.worker.train.chat.template import TemplateRefusal

UNEXPLAINED = "UNEXPLAINED: a bug"


class Result(NamedTuple):
    """One template: conversations with the twin's mask (None without a twin), why others differ, conversations that
    are right under the template as published, and why it refused others."""

    name: str
    same: int | None
    differences: Counter[str]
    right: int
    refusals: Counter[str]


def result_of(template: Template) -> Result:
    """All conversations under one template."""
    same, differences = _beside_twin(template) if template.twin is not None else (None, Counter[str]())
    return Result(template.name, same, differences, *_as_published(template))


def templates_page(results: Sequence[Result]) -> str:
    """The whole page."""
    reasons, number = Reasons(), len(CONVERSATIONS)
    rows = [
        (
            result.name,
            "no twin" if result.same is None else f"{result.same} of {number}",
            _numbered(result.differences, reasons),
            f"{result.right} of {number}",
            _numbered(result.refusals, reasons),
        )
        for result in results
    ]
    twins = [result for result in results if result.same is not None]
    return page(
        "Loss masks under real chat templates",
        paragraph(
            f"""Written by `make templates` (`python -m benchmarks.templates --page FILE`), {_setting()}.
            {len(results)} templates and {len(twins)} marked twins as the package {PACKAGE.replace("==", " ")} carries
            them, each with the {number} conversations of `benchmarks/templates/conversations.py`: several turns,
            repeated and empty texts, other scripts, tool calls with and without text, reasoning."""
        ),
        paragraph(
            """A twin is the same template with `{% generation %}` marks around what the assistant wrote, from which
            transformers computes a loss mask. The trainer is given the twin without its marks, has to find the turns
            by itself, and both masks are compared token by token. How it finds them is in
            [the trainer](trainer.md#loss-masks)."""
        ),
        "- `as the twin`: conversations with the same mask. A line break behind the token that ends a turn\n"
        "  does not count: the model has stopped by then.\n"
        "- `differs`: conversations, and in brackets the reason below: a difference that is meant so, or\n"
        "  the template's refusal.\n"
        "- `as published`: conversations in which, under the template without any marks, all words of the\n"
        "  assistant that the template prints are taught, nobody else's are, and the reply has an end.\n"
        "- `refused`: conversations, and in brackets the template's own words below. A job with such a\n"
        "  row ends with `chat_template_error`, those words and the line.",
        table(("template", "as the twin", "differs", "as published", "refused"), rows),
        "## Reasons\n\n" + reasons.listed(),
    )


def _beside_twin(template: Template) -> tuple[int, Counter[str]]:
    same, reasons = 0, Counter[str]()
    for conversation in CONVERSATIONS.values():
        comparison = compare(template, conversation)
        if comparison.refusal is not None:
            reasons[comparison.refusal] += 1
            continue
        why = explain(template.name, comparison)
        others = {UNEXPLAINED} if why is None else why - {LINE_BREAK}
        same += not others
        reasons.update(others)
    return same, reasons


def _as_published(template: Template) -> tuple[int, Counter[str]]:
    right, refusals = 0, Counter[str]()
    for conversation in CONVERSATIONS.values():
        try:
            text = marked(template, conversation)
        except TemplateRefusal as refusal:
            refusals[f"the template: {refusal}"] += 1
        except UnknownTurn as unknown:
            refusals[f"turn of message {unknown.message} not found"] += 1
        else:
            right += not list(violations(text, conversation))
    return right, refusals


def _numbered(counted: Counter[str], reasons: Reasons) -> str:
    return ", ".join(f"{count} ({reasons.number(text)})" for text, count in counted.items())


def _setting() -> str:
    return setting("transformers", "tokenizers", "jinja2")
