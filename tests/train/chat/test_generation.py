"""Answers end where training taught the model to end them."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from benchmarks.templates.compare import stop_tokens as stop_tokens_of
from benchmarks.templates.twins import Template, templates, tokenizer_for
from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tunesmith.tuning.datasets.message_parser import parse_chat
from tunesmith.worker.run_directory import RunDirectory
from tunesmith.worker.train.chat.conversation import ChatRenderer
from tunesmith.worker.train.generation.generator import Generator
from tunesmith.worker.train.models.model import load_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
ROWS = runs.chat_rows(4)
END_OF_TEXT, END_OF_TURN = 0, 2
# As GLM: nothing ends a turn; the model stops by beginning the next message.
ENDLESS = (
    "{% for message in messages %}"
    "{{ {'user': '<|im_start|>', 'assistant': '<|endoftext|>'}[message.role] + '\n' + (message.content or '') }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|endoftext|>\n' }}{% endif %}"
)


def build_base(folder: Path, **changes: Any) -> Path:
    """A base model as many are published: its settings know the end of a text, its template ends turns otherwise."""
    build_tiny_model(folder, **changes)
    for name, key, value in (
        ("tokenizer_config.json", "eos_token", "<|endoftext|>"),
        ("config.json", "eos_token_id", END_OF_TEXT),
        ("generation_config.json", "eos_token_id", END_OF_TEXT),
    ):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, key: value}))
    return folder


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Fully tuned until it repeats its rows by heart."""
    root = tmp_path_factory.mktemp("tuned")
    plan = plans.plan(method="full", rows_per_step=4, epochs=60, evaluation_interval_steps=60, learning_rate=1e-2)
    directory = runs.make_run(root, model=build_base(root / "base"), plan=plan, rows=ROWS, validation=ROWS)
    assert runs.train_here(directory) == 0
    return directory


@pytest.mark.slow
def test_samples_stop_at_the_end_that_was_learnt(tuned: RunDirectory) -> None:
    last = [event["data"] for event in runs.events(tuned) if "samples" in event["data"]][-1]
    assert last["step"] == 60
    assert [sample["answer"] for sample in last["samples"]] == [sample["reference"] for sample in last["samples"]]
    assert all(sample["finished"] for sample in last["samples"])


def test_the_tuned_models_settings_name_the_end_that_it_has_learnt(tuned: RunDirectory) -> None:
    settings = json.loads((tuned.output / "generation_config.json").read_text())
    assert settings["eos_token_id"] == [END_OF_TEXT, END_OF_TURN]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tuned.output), load_tokenizer(tuned.output)
    prompt = ChatRenderer(tokenizer).prompt(parse_chat({"messages": ROWS[3]["messages"][:1]}))
    asked = tokenizer(prompt, return_tensors="pt").input_ids
    said = model.generate(asked, max_new_tokens=40, do_sample=False)[0, asked.shape[1] :]
    assert tokenizer.decode(said) == f"{ROWS[3]['messages'][1]['content']}<|im_end|>"


def test_the_card_says_what_a_reply_ends_with(tuned: RunDirectory) -> None:
    card = (tuned.output / "README.md").read_text()
    assert "| a reply ends with | `<|im_end|>` in 4 rows |" in card
    assert "chat template" not in card


def test_scored_answers_stop_there_too_where_the_base_knows_another_end(tuned: RunDirectory) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tuned.output), load_tokenizer(tuned.output)
    model.generation_config.eos_token_id = END_OF_TEXT  # as an adapter finds its base
    renderer = ChatRenderer(tokenizer)
    prompts = [renderer.prompt(parse_chat({"messages": row["messages"][:1]})) for row in ROWS]
    asked = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    answers = Generator(model, tokenizer, ends=renderer.ends()).complete(asked, max_new_tokens=64)
    assert [answer["text"] for answer in answers] == [row["messages"][1]["content"] for row in ROWS]
    assert all(answer["finished"] for answer in answers)


def test_the_card_says_that_a_plain_template_was_used(tmp_path: Path) -> None:
    base = build_base(tmp_path / "base", chat_template=None)
    directory = runs.make_run(tmp_path, model=base, plan=plans.plan(epochs=1), rows=ROWS)
    assert runs.train_here(directory) == 0
    card = (directory.output / "README.md").read_text()
    assert "| chat template | the base model has none: conversations were written with a plain one" in card
    assert "| a reply ends with | `<|im_end|>` in 4 rows |" in card


def test_the_card_says_that_an_end_was_added(tmp_path: Path) -> None:
    base = build_base(tmp_path / "base")
    rows = [{"text": "one two"}, *[{"text": "two one<|endoftext|>"}] * 3]
    directory = runs.make_run(tmp_path, model=base, plan=plans.plan(epochs=1), rows=rows)
    assert runs.train_here(directory) == 0
    card = (directory.output / "README.md").read_text()
    assert "| a reply ends with | `<|endoftext|>` in 4 rows; put there by the trainer in 1" in card


def test_the_card_says_that_no_end_was_learnt(tmp_path: Path) -> None:
    base = build_tiny_model(tmp_path / "base", chat_template=ENDLESS)
    without_end(base)
    directory = runs.make_run(tmp_path, model=base, plan=plans.plan(epochs=1), rows=ROWS)
    assert runs.train_here(directory) == 0
    card = (directory.output / "README.md").read_text()
    assert "| a reply ends with | nothing in 4 rows, because the model has no token for it |" in card


def without_end(folder: Path) -> None:
    fields = {"tokenizer_config": "eos_token", "config": "eos_token_id", "generation_config": "eos_token_id"}
    for name, field in fields.items():
        file = folder / f"{name}.json"
        content = json.loads(file.read_text())
        del content[field]
        file.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def known(request: pytest.FixtureRequest) -> list[Template]:
    cache = request.config.cache
    assert cache is not None
    return templates(cache.mkdir("chat-templates"))


def test_every_family_has_an_end_for_words_and_calls(known: list[Template]) -> None:
    ends = {}
    for template in known:
        tokenizer = tokenizer_for(template)
        ends[template.name] = ChatRenderer(tokenizer, stop_tokens=stop_tokens_of(template, tokenizer)).ends()
    assert ends["qwen3"] == ("<|im_end|>",)
    assert {"<|return|>", "<|call|>"} <= set(ends["gptoss"])
    assert "<|end|>" not in ends["gptoss"]  # which ends its thoughts
    assert {"<|user|>", "<|observation|>"} <= set(ends["glm4moe"])
    assert all(ends.values())


def test_a_template_that_refuses_every_reply_leaves_the_models_own_ends(tmp_path: Path) -> None:
    template = "{{ raise_exception('never') }}"
    tokenizer = load_tokenizer(build_tiny_model(tmp_path / "model", chat_template=template))
    assert ChatRenderer(tokenizer, stop_tokens=("<|im_end|>",)).ends() == ("<|im_end|>",)
