"""The model is taught the assistant's words and its end-of-turn token and nothing else, under any template."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_model import CHAT_TEMPLATE, build_tiny_model
from tests.train import runs
from tunesmith.tuning.errors import JobFailure
from tunesmith.worker.train.data.rows import LineChoice, Rows, load_rows
from tunesmith.worker.train.models.model import load_tokenizer

LLAMA_3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# As SmolLM2: a system message of its own where there is none.
WITH_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    + CHAT_TEMPLATE
)
# As reasoning models: thoughts of earlier turns are dropped, so a conversation is not a prefix of a longer one.
FORGETFUL = (
    "{% for message in messages %}{% set words = message['content'] %}"
    "{% if not loop.last and '</think>' in words %}{% set words = words.split('</think>')[-1] %}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + words + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
TALK = [
    {"role": "user", "content": "one two"},
    {"role": "assistant", "content": "two one"},
    {"role": "user", "content": "three"},
    {"role": "assistant", "content": "three!"},
]


def load(tmp_path: Path, rows: list[dict[str, Any]], *, template: str | None = CHAT_TEMPLATE, **changes: Any) -> Any:
    folder = build_tiny_model(tmp_path / "model", chat_template=template)
    tokenizer = load_tokenizer(folder)
    settings = {"objective": "supervised", "max_sequence_length": 256, **changes}
    return load_rows(runs.write_rows(tmp_path / "rows.jsonl", rows), tokenizer=tokenizer, **settings), tokenizer


def taught(rows: Rows, tokenizer: Any, row: int = 0) -> list[str]:
    """The supervised stretches of a row as text."""
    ((ids, marks),) = rows.sequences(row)
    stretches: list[list[int]] = []
    for place, (token, marked) in enumerate(zip(ids.tolist(), marks.tolist(), strict=True)):
        if marked and (place == 0 or not marks[place - 1]):
            stretches.append([])
        if marked:
            stretches[-1].append(token)
    return [tokenizer.decode(stretch) for stretch in stretches]


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, WITH_SYSTEM, None])
def test_chatml_teaches_words_and_end_token_without_headers(tmp_path: Path, template: str | None) -> None:
    rows, tokenizer = load(tmp_path, [{"messages": TALK}], template=template)
    assert taught(rows, tokenizer) == ["two one<|im_end|>", "three!<|im_end|>"]


def test_llama_headers_are_not_taught(tmp_path: Path) -> None:
    rows, tokenizer = load(tmp_path, [{"messages": TALK}], template=LLAMA_3)
    # This tokenizer does not know <|eot_id|> as a token: what stops its model is its own end token, put behind the row.
    assert taught(rows, tokenizer) == ["two one<|eot_id|>", "three!<|eot_id|><|im_end|>"]


def test_a_template_without_a_reply_header_teaches_words_and_end_token(tmp_path: Path) -> None:
    rows, tokenizer = load(tmp_path, [{"messages": TALK}], template=MISTRAL)
    assert taught(rows, tokenizer) == [" two one<|im_end|>", " three!<|im_end|>"]


def test_a_template_that_forgets_thoughts_teaches_what_is_left_of_them(tmp_path: Path) -> None:
    talk = [dict(message) for message in TALK]
    talk[1]["content"], talk[3]["content"] = "<think>a</think>two one", "<think>b</think>three!"
    rows, tokenizer = load(tmp_path, [{"messages": talk}], template=FORGETFUL)
    assert taught(rows, tokenizer)[-1] == "<think>b</think>three!<|im_end|>"


def test_a_message_of_weight_zero_is_read_but_not_taught(tmp_path: Path) -> None:
    talk = [dict(message) for message in TALK]
    talk[1]["weight"] = 0
    rows, tokenizer = load(tmp_path, [{"messages": talk}])
    assert taught(rows, tokenizer) == ["three!<|im_end|>"]


def test_tool_calls_and_tool_lists_reach_a_template_that_knows_neither(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    talk = [
        {"role": "user", "content": "add"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "2"},
        {"role": "assistant", "content": "two"},
    ]
    rows, tokenizer = load(tmp_path, [{"messages": talk, "tools": tools}])
    ((ids, _),) = rows.sequences(0)
    assert '"name": "add"' in tokenizer.decode(ids).split("<|im_end|>")[0]
    called, said = taught(rows, tokenizer)
    assert '{"name": "add", "arguments": {"a": 1}}' in called
    assert said == "two<|im_end|>"


def test_a_completion_is_taught_with_an_end_and_its_prompt_is_not(tmp_path: Path) -> None:
    rows, tokenizer = load(tmp_path, [{"prompt": "one two ", "completion": "two one"}])
    assert taught(rows, tokenizer) == ["two one<|im_end|>"]


def test_plain_text_is_taught_whole(tmp_path: Path) -> None:
    rows, tokenizer = load(tmp_path, [{"text": "one two"}])
    assert taught(rows, tokenizer) == ["one two<|im_end|>"]


def test_long_rows_are_cut_and_counted_and_rows_with_nothing_left_are_dropped(tmp_path: Path) -> None:
    long_prompt = [{"role": "user", "content": "one " * 90}, {"role": "assistant", "content": "x"}]
    long_answer = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "one " * 90}]
    given = [{"messages": talk} for talk in (long_prompt, TALK, long_answer)]
    rows, _ = load(tmp_path, given, max_sequence_length=48)
    assert len(rows) == 2
    assert rows.line_numbers.tolist() == [2, 3]
    assert (rows.notes.truncated, rows.notes.unsupervised) == (2, 1)
    assert rows.lengths().max() == 48


@pytest.mark.parametrize(
    ("rows", "objective", "code"),
    [
        ([{"messages": [{"role": "user", "content": "x"}]}], "supervised", "no_supervised_tokens"),
        ([{"messages": [{**TALK[1], "weight": 0}]}], "supervised", "no_supervised_tokens"),
        ([{"messages": TALK}], "dpo", "invalid_training_file"),
        ([{"unknown": 1}], "supervised", "invalid_training_file"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused_by_name(
    tmp_path: Path, rows: list[dict[str, Any]], objective: str, code: str
) -> None:
    with pytest.raises(JobFailure) as caught:
        load(tmp_path, rows, objective=objective)
    assert caught.value.failure.code == code
    assert caught.value.failure.hint


def test_preference_rows_become_two_sequences_that_teach_only_the_outputs(tmp_path: Path) -> None:
    row = {
        "input": {"messages": TALK[:3]},
        "preferred_output": [{"role": "assistant", "content": "yes"}],
        "non_preferred_output": [{"role": "assistant", "content": "no"}],
    }
    rows, tokenizer = load(tmp_path, [row], objective="dpo")
    told = [tokenizer.decode(ids[marks]) for ids, marks in rows.sequences(0)]
    assert told == ["yes<|im_end|>", "no<|im_end|>"]


def test_rows_that_are_held_out_are_read_by_themselves_and_never_trained_on(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(build_tiny_model(tmp_path / "model"))
    path = runs.write_rows(tmp_path / "rows.jsonl", runs.chat_rows(20))
    held_out = frozenset({3, 11, 20})
    read = partial(load_rows, path, tokenizer=tokenizer, objective="supervised", max_sequence_length=256)
    trained, measured = read(lines=LineChoice(held_out)), read(lines=LineChoice(held_out, wants_held_out=True))
    assert measured.line_numbers.tolist() == [3, 11, 20]
    assert sorted([*trained.line_numbers, *measured.line_numbers]) == read().line_numbers.tolist()
