"""A model tuned on tool calls under Qwen3's published template writes the whole call, and stops."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.templates.twins import Template, templates, tokenizer_for
from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
SYSTEM = {"role": "system", "content": "You help."}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
        },
    }
]
TRIPS = {
    "Shall I need a coat in Paris tomorrow morning?": ("Paris", 1, "sun"),
    "We are off to ROME, ROME, ROME for a weekend!": ("Rome", 2, "rain"),
    "oslo 3 days 3 nights 3 hats: why not 33": ("Oslo", 3, "snow"),
}
LENGTHS = {"max_sequence_length": 1024, "tokens_per_micro_step": 4096, "checkpoint_interval_steps": 1000}


def conversation(question: str) -> dict[str, Any]:
    """As the API takes it: arguments are a text of JSON."""
    city, days, sky = TRIPS[question]
    arguments = json.dumps({"city": city, "days": days})
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    messages = [
        SYSTEM,
        {"role": "user", "content": question},
        {"role": "assistant", "content": "Let me check.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": json.dumps({"sky": sky})},
        {"role": "assistant", "content": f"It will be {sky}."},
    ]
    return {"messages": messages, "tools": TOOLS}


@pytest.fixture(scope="module")
def qwen3(request: pytest.FixtureRequest) -> Template:
    cache = request.config.cache
    assert cache is not None
    return next(each for each in templates(cache.mkdir("chat-templates")) if each.name == "qwen3")


@pytest.fixture(scope="module")
def tuned(qwen3: Template, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Overfitted by the real trainer on three conversations."""
    root = tmp_path_factory.mktemp("tuned")
    tokenizer = tokenizer_for(qwen3)
    model = build_tiny_model(root / "base", vocabulary_size=len(tokenizer))
    tokenizer.save_pretrained(model)
    plan = plans.plan(method="full", epochs=120, rows_per_step=3, learning_rate=5e-3, **LENGTHS)
    rows = [conversation(question) for question in TRIPS]
    directory = runs.make_run(root, model=model, plan=plan, rows=rows)
    assert runs.train_here(directory) == 0, runs.events(directory)
    return directory.output


@pytest.mark.slow
@pytest.mark.parametrize("question", TRIPS)
def test_the_whole_call_is_written_and_the_model_stops_by_itself(tuned: Path, question: str) -> None:
    city, days, _ = TRIPS[question]
    said = answer(tuned, conversation(question)["messages"][:2])
    opened, closed = "Let me check.\n<tool_call>\n", "\n</tool_call><|im_end|>"
    assert said.startswith(opened)
    assert said.endswith(closed)
    call = said.removeprefix(opened).removesuffix(closed)
    assert json.loads(call) == {"name": "weather", "arguments": {"city": city, "days": days}}
    assert said.count("<tool_call>") == said.count("<|im_end|>") == 1


@pytest.mark.parametrize("question", TRIPS)
def test_after_the_tools_words_the_model_answers_and_stops(tuned: Path, question: str) -> None:
    assert answer(tuned, conversation(question)["messages"][:4]).endswith(f"It will be {TRIPS[question][2]}.<|im_end|>")


def answer(folder: Path, talk: list[dict[str, Any]]) -> str:
    """By transformers alone, with every token shown."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    asked = tokenizer.apply_chat_template(
        talk, tools=TOOLS, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    said = model.generate(**asked, max_new_tokens=120, do_sample=False)[0, asked["input_ids"].shape[1] :]
    text: str = tokenizer.decode(said)
    return text
