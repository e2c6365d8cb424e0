"""Loss masks under the templates of real model families, held against transformers' own masks of marked twins."""

import pytest

from benchmarks.templates.compare import compare
from benchmarks.templates.conversations import CONVERSATIONS
from benchmarks.templates.differences import LINE_BREAK, PROMPT, explain
from benchmarks.templates.properties import marked, violations
from benchmarks.templates.twins import Template, templates
from tunesmith.worker.train.chat.template import TemplateRefusal


@pytest.fixture(scope="module")
def known(request: pytest.FixtureRequest) -> list[Template]:
    cache = request.config.cache
    assert cache is not None
    return templates(cache.mkdir("chat-templates"))


@pytest.fixture(scope="module")
def twins(known: list[Template]) -> list[Template]:
    return [template for template in known if template.twin is not None]


def test_there_are_enough_families(known: list[Template], twins: list[Template]) -> None:
    assert len(known) >= 40
    assert len(twins) >= 25
    assert len(CONVERSATIONS) >= 12


@pytest.mark.mostly_slow(rows=3)
@pytest.mark.parametrize("name", list(CONVERSATIONS))
def test_turns_are_found_where_marked_twins_say_they_are(twins: list[Template], name: str) -> None:
    wrong = {}
    for template in twins:
        comparison = compare(template, CONVERSATIONS[name])
        if comparison.refusal is None and explain(template.name, comparison) is None:
            wrong[template.name] = comparison.more, comparison.less
        elif comparison.refusal is not None and not comparison.refusal.startswith("the template:"):
            wrong[template.name] = comparison.refusal
    assert not wrong


@pytest.mark.slow
def test_most_twins_agree_to_the_token(twins: list[Template]) -> None:
    reasons = [
        explain(template.name, compare(template, conversation))
        for template in twins
        for conversation in CONVERSATIONS.values()
    ]
    same = sum(1 for why in reasons if why is not None and why <= {LINE_BREAK})
    but_for_the_prompt = sum(1 for why in reasons if why is not None and why <= {LINE_BREAK, PROMPT})
    assert same >= 0.85 * len(reasons)
    assert but_for_the_prompt >= 0.98 * len(reasons)


@pytest.mark.parametrize("name", ["one turn", "a call without text", "parallel calls", "reasoning"])
def test_the_templates_own_marks_are_used_as_transformers_uses_them(twins: list[Template], name: str) -> None:
    for template in twins:
        comparison = compare(template, CONVERSATIONS[name], marked=True)
        assert comparison.refusal is None
        assert not [text for text in comparison.less if text.strip() and template.name != "diffusion_gemma"]
        assert not comparison.more


@pytest.mark.mostly_slow(rows=3)
@pytest.mark.parametrize("name", list(CONVERSATIONS))
def test_published_templates_teach_all_words_of_the_assistant_and_nobody_elses(
    known: list[Template], name: str
) -> None:
    wrong, refused = {}, []
    for template in known:
        try:
            text = marked(template, CONVERSATIONS[name])
        except TemplateRefusal:
            refused.append(template.name)
            continue
        if problems := list(violations(text, CONVERSATIONS[name])):
            wrong[template.name] = problems
    assert not wrong
    assert len(refused) <= 2, refused  # Gemma's system message, Llama 3's parallel calls
