"""What is taught of a conversation at the edges: ends, dropped words, tools, and templates that misbehave."""

import time
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from tests.tiny_model import CHAT_TEMPLATE, build_tiny_model
from tests.train import runs
from tunesmith.tuning.datasets.message_parser import parse_chat
from tunesmith.tuning.datasets.row_formats import Chat
from tunesmith.tuning.errors import Category, JobFailure
from tunesmith.worker.train.chat import template as templates
from tunesmith.worker.train.chat.conversation import ChatRenderer
from tunesmith.worker.train.chat.stop_tokens import stop_tokens
from tunesmith.worker.train.data.rows import Rows, load_rows
from tunesmith.worker.train.models.model import load_tokenizer

TALK = [{"role": "user", "content": "one two"}, {"role": "assistant", "content": "two one"}]
CALL = {"id": "call00001", "type": "function", "function": {"name": "add", "arguments": '{"first": "one"}'}}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
# As Qwen3: an empty thought in the last turn, earlier thoughts forgotten, calls as JSON between tags.
THINKING = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.role == 'assistant' %}{% set words = message.content %}"
    "{% set thought = message.reasoning_content or '' %}"
    "{% if loop.last %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}{{ words }}"
    "{% for call in message.tool_calls or [] %}"
    '{{ \'\n<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{ call.function.arguments | tojson }}{{ '}\n</tool_call>' }}"
    "{% endfor %}{% else %}{{ message.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As GLM: nothing ends a turn; the model stops by beginning the next message.
ENDLESS = (
    "{% for message in messages %}"
    "{{ {'user': '<|im_start|>', 'assistant': '<|endoftext|>'}[message.role] + '\n' + message.content }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|endoftext|>\n' }}{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('No system here') }}{% endif %}" + CHAT_TEMPLATE
DATED = "{{ strftime_now('%d %b %Y') + '\n' }}" + CHAT_TEMPLATE


def load(tmp_path: Path, rows: list[dict[str, Any]], *, template: str | None = CHAT_TEMPLATE, **changes: Any) -> Any:
    folder = build_tiny_model(tmp_path / "model", chat_template=template)
    tokenizer = load_tokenizer(folder)
    settings = {"objective": "supervised", "max_sequence_length": 512, **changes}
    return load_rows(runs.write_rows(tmp_path / "rows.jsonl", rows), tokenizer=tokenizer, **settings), tokenizer


def chat_of(talk: list[dict[str, Any]]) -> Chat:
    return parse_chat({"messages": talk})


def taught(rows: Rows, tokenizer: Any, row: int = 0) -> list[str]:
    ((ids, marks),) = rows.sequences(row)
    stretches: list[list[int]] = []
    for place, (token, is_marked) in enumerate(zip(ids.tolist(), marks.tolist(), strict=True)):
        if is_marked and (place == 0 or not marks[place - 1]):
            stretches.append([])
        if is_marked:
            stretches[-1].append(token)
    return [tokenizer.decode(stretch) for stretch in stretches]


def refusal(tmp_path: Path, rows: list[dict[str, Any]], **changes: Any) -> Any:
    with pytest.raises(JobFailure) as caught:
        load(tmp_path, rows, **changes)
    return caught.value.failure


@pytest.mark.parametrize("content", [None, "Let me see."])
def test_a_call_is_taught_whole_with_its_end(tmp_path: Path, content: str | None) -> None:
    talk = [TALK[0], {"role": "assistant", "content": content, "tool_calls": [CALL]}]
    rows, tokenizer = load(tmp_path, [{"messages": talk, "tools": TOOLS}], template=THINKING)
    ((said,),) = [taught(rows, tokenizer)]
    wanted = '\n<tool_call>\n{"name": "add", "arguments": {"first": "one"}}\n</tool_call><|im_end|>'
    assert said == "<think>\n\n</think>\n\n" + (content or "") + wanted


def test_a_call_in_the_middle_of_a_talk_is_taught_whole_too(tmp_path: Path) -> None:
    turn = {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]}
    talk = [TALK[0], turn, {"role": "user", "content": "and?"}, TALK[1]]
    rows, tokenizer = load(tmp_path, [{"messages": talk}], template=THINKING)
    call, answer = taught(rows, tokenizer)
    assert call.endswith('{"first": "one"}}\n</tool_call><|im_end|>')
    assert call.startswith("Let me see.")
    assert answer == "<think>\n\n</think>\n\ntwo one<|im_end|>"


def test_words_that_a_template_forgets_are_counted_with_their_first_line(tmp_path: Path) -> None:
    thoughtful = [TALK[0], {**TALK[1], "reasoning_content": "backwards"}, *TALK]
    rows, _ = load(tmp_path, [{"messages": TALK}, {"messages": thoughtful}], template=THINKING)
    assert rows.notes.left_out == {"reasoning": (1, 2)}


def test_words_that_are_not_to_be_learned_are_not_missed(tmp_path: Path) -> None:
    thoughtful = [TALK[0], {**TALK[1], "reasoning_content": "backwards", "weight": 0}, *TALK]
    rows, _ = load(tmp_path, [{"messages": thoughtful}], template=THINKING)
    assert not rows.notes.left_out


def test_a_job_may_refuse_to_train_without_words_that_the_template_forgets(tmp_path: Path) -> None:
    thoughtful = [TALK[0], {**TALK[1], "reasoning_content": "backwards"}, *TALK]
    failure = refusal(tmp_path, [{"messages": thoughtful}], template=THINKING, on_dropped_content="refuse")
    assert failure.code == "content_left_out"
    assert "reasoning in 1 of 1 rows (100%, first in line 1)" in failure.message
    assert "on_dropped_content" in failure.hint


def test_where_a_template_ends_no_turn_the_token_that_the_model_stops_by_is_taught(tmp_path: Path) -> None:
    talk = {"messages": [*TALK, {"role": "user", "content": "again"}, TALK[1]]}
    rows, tokenizer = load(tmp_path, [talk], template=ENDLESS, stop_tokens=("<|im_end|>", "<|im_start|>"))
    assert taught(rows, tokenizer) == ["two one<|im_start|>", "two one<|im_start|>"]
    assert rows.notes.stops_added == 1


def test_a_model_without_any_end_token_is_told_of(tmp_path: Path) -> None:
    rows, tokenizer = load(tmp_path, [{"messages": TALK}], template=ENDLESS, stop_tokens=())
    assert taught(rows, tokenizer) == ["two one"]
    texts, _ = load(tmp_path, [{"text": "one two"}], template=ENDLESS, stop_tokens=())
    assert (rows.notes.endless, texts.notes.endless) == (1, 1)


def test_a_base_model_without_template_learns_an_end() -> None:
    core = Tokenizer(models.BPE())
    core.add_special_tokens(["<|endoftext|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>")
    renderer = ChatRenderer(tokenizer)
    text = renderer.mark(chat_of([*TALK, *TALK]))
    assert [text.text[start:end] for start, end in text.spans] == [" two one<|endoftext|>", " two one<|endoftext|>"]
    assert renderer.prompt(chat_of(TALK[:1])).endswith("Assistant:")
    assert tokenizer.chat_template == renderer.default_template  # so the result carries it


def test_stop_tokens_come_from_the_tokenizer_and_the_models_settings(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path / "model")
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 0, 99999, null, true]}')
    assert stop_tokens(folder, load_tokenizer(folder)) == ("<|im_end|>", "<|endoftext|>")


def test_a_templates_own_refusal_is_the_users_error_with_its_words_and_the_line(tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "Be kind."}, *TALK]
    failure = refusal(tmp_path, [{"messages": TALK}, {"messages": talk}], template=NO_SYSTEM)
    assert failure.code == "chat_template_error"
    assert failure.category == "user_error"
    assert not failure.retryable
    assert "Line 2" in failure.message
    assert "No system here" in failure.message
    assert failure.param == "training_file"


def test_tools_reach_a_template_that_takes_no_system_message(tmp_path: Path) -> None:
    talk = [TALK[0], {"role": "assistant", "content": None, "tool_calls": [CALL]}]
    rows, tokenizer = load(tmp_path, [{"messages": talk, "tools": TOOLS}], template=NO_SYSTEM)
    ((ids, _),) = rows.sequences(0)
    assert '"name": "add", "parameters"' in tokenizer.decode(ids).split("<|im_end|>")[0]
    assert taught(rows, tokenizer)[0].startswith("<tool_call>")


def test_a_tools_answer_reaches_a_template_that_knows_only_user_and_assistant(tmp_path: Path) -> None:
    template = (
        "{% for message in messages %}{% if message.role in ('user', 'assistant') %}"
        "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    answer = {"role": "tool", "content": "seven", "tool_call_id": "call00001"}
    talk = [TALK[0], {"role": "assistant", "content": None, "tool_calls": [CALL]}, answer, TALK[1]]
    rows, tokenizer = load(tmp_path, [{"messages": talk}], template=template)
    ((ids, _),) = rows.sequences(0)
    assert "<|im_start|>user\n<tool_response>\nseven\n</tool_response><|im_end|>" in tokenizer.decode(ids)


def test_a_developer_is_a_system_to_templates_that_do_not_know_one(tmp_path: Path) -> None:
    template = CHAT_TEMPLATE.replace("{{ '<|im_start|>'", "{{ '' if message['role'] == 'x' else '<|im_start|>'", 1)
    rows, tokenizer = load(
        tmp_path, [{"messages": [{"role": "developer", "content": "kind"}, *TALK]}], template=template
    )
    ((ids, _),) = rows.sequences(0)
    assert tokenizer.decode(ids).startswith("<|im_start|>system\nkind")


def test_the_same_job_renders_the_same_text_on_any_day(tmp_path: Path) -> None:
    rows, tokenizer = load(tmp_path, [{"messages": TALK}], template=DATED, today=date(2026, 3, 14))
    ((ids, _),) = rows.sequences(0)
    assert tokenizer.decode(ids).startswith("14 Mar 2026\n")
    assert taught(rows, tokenizer) == ["two one<|im_end|>"]


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% for message in messages %}", "does not compile"),
        ("{{ messages }}" + " " * templates.MOST_CHARACTERS, "characters"),
    ],
)
def test_a_broken_template_blames_the_model(tmp_path: Path, template: str, problem: str) -> None:
    failure = refusal(tmp_path, [{"messages": TALK}], template=template)
    assert failure.code == "broken_chat_template"
    assert problem in failure.message
    assert failure.param == "model"


def test_a_template_that_writes_too_much_is_the_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "MOST_RENDERED_CHARACTERS", 1000)
    failure = refusal(tmp_path, [{"messages": TALK}], template="{{ messages[0].role * 500 }}")
    assert failure.code == "chat_template_error"
    assert failure.category == Category.USER_ERROR
    assert "2,000 characters, 1,000 are allowed" in failure.message


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "took more than"),
        ("{{ messages[0].role * 16000000000 }}", "memory"),
        ("{{ messages.__class__.__mro__ }}", "may not"),
        ("{{ messages[0].content.nothing.more }}", "UndefinedError"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "RecursionError"),
    ],
)
def test_a_template_that_loops_hogs_or_pries_fails_at_once_as_the_users_error(
    tmp_path: Path, template: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if problem == "took more than":  # the others end by themselves, on a busy machine later than that
        monkeypatch.setattr(templates, "RENDER_SECONDS", 0.2)
    began = time.monotonic()
    failure = refusal(tmp_path, [{"messages": TALK}], template=template)
    assert failure.code == "chat_template_error"
    assert problem in failure.message
    assert "Line 1" in failure.message
    assert time.monotonic() - began < 30


def test_twenty_thousand_turns_are_found_in_seconds(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(build_tiny_model(tmp_path / "model"))
    talk = [{**message, "content": f"{message['content']} {index}"} for index in range(10_000) for message in TALK]
    began = time.process_time()
    text = ChatRenderer(tokenizer).mark(chat_of(talk))
    assert len(text.spans) == 10_000
    assert text.text[slice(*text.spans[-1])] == "two one 9999<|im_end|>"
    assert time.process_time() - began < 20


def test_a_talk_of_many_calls_is_not_rendered_once_more_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call ends otherwise, because its last argument is a number."""
    rendered: list[int] = []
    render = templates.ChatTemplate._render

    def counting(self: Any, messages: Any, **named: Any) -> Any:
        rendered.append(len(messages))
        return render(self, messages, **named)

    monkeypatch.setattr(templates.ChatTemplate, "_render", counting)
    talk: list[dict[str, Any]] = []
    for number in range(1000):
        function = {"name": "add", "arguments": f'{{"first": "one", "second": {number}}}'}
        call = {"id": f"call{number:05}", "type": "function", "function": function}
        result = {"role": "tool", "tool_call_id": call["id"], "content": f"{number}"}
        talk += [TALK[0], {"role": "assistant", "content": None, "tool_calls": [call]}, result, TALK[1]]
    tokenizer = load_tokenizer(build_tiny_model(tmp_path / "model", chat_template=THINKING))
    text = ChatRenderer(tokenizer).mark(chat_of(talk))
    assert len(text.spans) == 2000
    assert '"second": 998}}\n</tool_call><|im_end|>' in text.text[slice(*text.spans[-4])]
    assert sum(rendered) < 10 * len(talk)


def test_a_talk_that_takes_a_rendering_for_every_message_ends_in_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "CONVERSATION_SECONDS", 0.2)
    talk = [{**message, "content": "\ufdd0 two"} for _ in range(10_000) for message in TALK]
    began = time.monotonic()
    failure = refusal(tmp_path, [{"messages": TALK}, {"messages": talk}])
    assert (failure.code, failure.category) == ("chat_template_error", "user_error")
    assert "Line 2" in failure.message
    assert "one conversation took more than" in failure.message
    assert "Split the conversation" in failure.hint
    assert time.monotonic() - began < 30


def test_texts_in_characters_that_anchors_are_written_in_are_still_marked(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "\ufdd0\ufdee1\ufdef"}, {"role": "assistant", "content": "\ufdd1 two"}]
    rows, tokenizer = load(tmp_path, [{"messages": talk}])
    assert taught(rows, tokenizer) == ["\ufdd1 two<|im_end|>"]
