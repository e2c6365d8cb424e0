"""What a model in training says to held-out prompts: the right words, at the right moments, without a trace."""

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tunesmith.tuning.estimates.evaluation_time import LONGEST_PROMPT_TOKENS, SAMPLES
from tunesmith.worker.train.adapters.adapter import attach_adapter
from tunesmith.worker.train.adapters.fuse import fuse
from tunesmith.worker.train.checkpoints import state as checkpoint
from tunesmith.worker.train.data.packing import pack
from tunesmith.worker.train.data.rows import Rows, load_rows
from tunesmith.worker.train.generation import samples
from tunesmith.worker.train.generation.generator import Generator
from tunesmith.worker.train.models.model import Learner, load_model, load_tokenizer
from tunesmith.worker.train.models.own_attention import attending

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
CPU = torch.device("cpu")
PAIR = {
    "input": {"messages": [{"role": "user", "content": "one two"}]},
    "preferred_output": [{"role": "assistant", "content": "yes please"}],
    "non_preferred_output": [{"role": "assistant", "content": "no"}],
}
TURNS = ["one", "two", "three", "four"]
TALK = {
    "messages": [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, TURNS, strict=True)]
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


def loaded(tmp_path: Path, model: Path, rows: list[dict[str, Any]], **changes: Any) -> Rows:
    path = runs.write_rows(tmp_path / "rows.jsonl", rows)
    values = {"objective": "supervised", "max_sequence_length": 256, **changes}
    return load_rows(path, tokenizer=load_tokenizer(model), **values)


def said(directory: Any) -> dict[int, list[dict[str, Any]]]:
    """Samples by step."""
    found = [event["data"] for event in runs.events(directory) if "samples" in event["data"]]
    return {data["step"]: data["samples"] for data in found}


@pytest.mark.parametrize(
    ("row", "objective", "asked", "answered"),
    [
        (TALK, "supervised", "user\none\nassistant\ntwo\nuser\nthree\nassistant\n", "four"),
        ({"prompt": "one two ", "completion": "three"}, "supervised", "one two ", "three"),
        ({"text": "one two three four"}, "supervised", "one two", " three four"),
        (PAIR, "dpo", "user\none two\nassistant\n", "yes please"),
    ],
)
def test_every_kind_of_row_has_a_prompt_and_a_reference(
    tmp_path: Path, model: Path, row: dict[str, Any], objective: str, asked: str, answered: str
) -> None:
    (prompt,) = samples.choose_prompts(loaded(tmp_path, model, [row], objective=objective), seed=1)
    tokenizer = load_tokenizer(model)
    whole = asked + answered
    read = [tokenizer.decode(ids, skip_special_tokens=True) for ids in (prompt.ids, prompt.reference)]
    assert "".join(read) == whole
    if "text" not in row:
        assert read == [asked, answered]
    assert prompt.line == 1


def test_the_same_seed_asks_the_same_rows_and_long_prompts_come_last(tmp_path: Path, model: Path) -> None:
    long_row = {"messages": [{"role": "user", "content": "one " * 1500}, {"role": "assistant", "content": "two"}]}
    rows = loaded(tmp_path, model, [long_row, *runs.chat_rows(6)], max_sequence_length=8000)
    chosen = samples.choose_prompts(rows, seed=5)
    assert chosen == samples.choose_prompts(rows, seed=5)
    assert any(samples.choose_prompts(rows, seed=seed) != chosen for seed in range(6, 12))
    assert len(chosen) == SAMPLES
    assert 1 not in [prompt.line for prompt in chosen]
    only_long = samples.choose_prompts(loaded(tmp_path, model, [long_row], max_sequence_length=8000), seed=5)
    assert len(only_long[0].ids) == LONGEST_PROMPT_TOKENS


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_answers_are_what_packed_passes_predict_token_by_token(tmp_path: Path, model: Path, precision: str) -> None:
    plan = plans.plan(precision=precision)
    base = load_model(model, plan=plan, device=CPU)
    adapted = attach_adapter(base, plans.lora(), continue_from=None, seed=1)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.3)
    fuse(adapted)
    learner = Learner(adapted).eval()
    prompts = [prompt.ids for prompt in samples.choose_prompts(loaded(tmp_path, model, runs.chat_rows(6)), seed=2)]
    with attending(learner.causal_model, "sdpa", afterwards=learner.attention_name):
        answers = Generator(learner.causal_model, load_tokenizer(model)).complete(prompts, max_new_tokens=6)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = list(prompt)
        for _ in range(6):
            ids.append(predicted(learner, ids))
        text = load_tokenizer(model).decode(ids[len(prompt) :], skip_special_tokens=True).strip()
        assert answer["text"] == text
        assert len(set(ids[len(prompt) :])) > 1


@torch.no_grad()
def predicted(learner: Learner, ids: list[int]) -> int:
    """The most likely next token, by the pass that training uses."""
    import numpy as np

    marks = np.zeros(len(ids) + 1, dtype=bool)
    marks[-1] = True
    rows = Rows(
        tokens=np.asarray([*ids, 0], dtype=np.int32),
        supervised=marks,
        offsets=np.asarray([0, len(ids) + 1]),
        line_numbers=np.asarray([1]),
    )
    hidden = learner.hidden_states(pack([0], rows, device=CPU))
    return int((hidden[-1] @ learner.head.weight.T).argmax())


def test_asking_changes_neither_random_numbers_nor_the_model(tmp_path: Path, model: Path) -> None:
    plan = plans.plan(lora=plans.lora(dropout=0.2))
    directory = runs.make_run(tmp_path, model=model, plan=plan, validation=runs.chat_rows(5))
    from tunesmith.worker.train.session import prepare

    run = prepare(directory.request(), directory)
    learner = Learner(attach_adapter(load_model(model, plan=plan, device=CPU), plan.lora, continue_from=None, seed=1))
    learner.train()
    batch = pack([0, 1], run.rows, device=CPU)
    torch.manual_seed(3)
    before = learner.hidden_states(batch)
    torch.manual_seed(3)
    state = checkpoint.random_state()
    samples.Samples(run).record(learner, step=0)
    assert all(torch.equal(value, state[name]) for name, value in checkpoint.random_state().items())
    after = learner.hidden_states(batch)
    assert learner.training
    assert torch.equal(before, after)
    after.sum().backward()


@pytest.mark.slow
def test_the_answers_change_from_the_first_step_to_the_last(tmp_path: Path, model: Path) -> None:
    rows = runs.chat_rows(4)
    plan = plans.plan(method="full", rows_per_step=4, epochs=60, evaluation_interval_steps=30, learning_rate=1e-2)
    directory = runs.make_run(tmp_path, model=model, plan=plan, rows=rows, validation=rows)
    assert runs.train_here(directory) == 0
    by_step = said(directory)
    assert list(by_step) == [0, 30, 60]
    wanted = {number: row["messages"][1]["content"] for number, row in enumerate(rows, start=1)}
    for sample in by_step[60]:
        assert sample["answer"] == sample["reference"] == wanted[sample["line"]]
        assert sample["finished"] is True
        assert sample["prompt_end"].endswith("assistant")
    assert [sample["answer"] for sample in by_step[0]] != [sample["answer"] for sample in by_step[60]]
    assert max(len(json.dumps(event)) for event in by_step.values()) < 4000


def test_answers_that_take_long_are_given_at_the_ends_and_between_them_within_a_share_of_training(
    tmp_path: Path, model: Path
) -> None:
    from tunesmith.worker.train.session import prepare

    plan = plans.plan()
    directory = runs.make_run(tmp_path, model=model, plan=plan, validation=runs.chat_rows(5))
    run = prepare(directory.request(), directory)
    learner = Learner(attach_adapter(load_model(model, plan=plan, device=CPU), plan.lora, continue_from=None, seed=1))
    ticks = count(step=3.0)  # every answer takes three seconds
    asked = samples.Samples(run, clock=lambda: next(ticks))
    asked.record(learner, step=0)
    for step, training_seconds in ((1, 10.0), (2, 59.0), (3, 61.0), (4, 70.0), (5, None)):
        asked.record(learner, step=step, training_seconds=training_seconds)
    assert list(said(directory)) == [0, 3, 5]


def test_a_model_that_cannot_generate_trains_on_and_is_not_asked_again(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr(Generator, "complete", refuse)
    directory = runs.make_run(tmp_path, model=model, plan=plans.plan(), validation=runs.chat_rows(3))
    assert runs.train_here(directory) == 0
    warnings = [event["message"] for event in runs.events(directory) if "No sample answers" in event["message"]]
    assert len(warnings) == 1
    assert said(directory) == {}
