"""What rows are trained on stays the same to the token: digests of ids and loss masks, made before a row had types."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from benchmarks.templates.conversations import CONVERSATIONS, TOOLS
from tests.tiny_model import CHAT_TEMPLATE, build_tiny_model
from tests.train import runs
from tests.train.chat.test_chat import THINKING
from tests.train.data.test_rows import LLAMA_3
from tunesmith.worker.train.data.rows import load_rows
from tunesmith.worker.train.models.model import load_tokenizer

USER, ASSISTANT = {"role": "user", "content": "one two"}, {"role": "assistant", "content": "two one"}
BARE_CALL = {"function": {"name": "add", "arguments": '{"first": 1}'}}
EMPTY_CALL = {"id": 7, "type": "function", "function": {"name": "add"}}
TALKS: list[dict[str, Any]] = [
    *runs.chat_rows(12),
    {"messages": [USER, {**ASSISTANT, "weight": 0}, USER, {**ASSISTANT, "weight": 1}]},
    {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]},
            ASSISTANT,
        ]
    },
    {"messages": [{"role": "developer", "content": "Be kind."}, {**USER, "name": "ann"}, ASSISTANT], "tools": []},
    {"messages": [USER, {**ASSISTANT, "thinking": "backwards"}], "parallel_tool_calls": True},
    {
        "messages": [
            USER,
            {**ASSISTANT, "reasoning_content": "", "tool_calls": None},
            USER,
            {**ASSISTANT, "reasoning": "x"},
        ]
    },
    {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [BARE_CALL, EMPTY_CALL]}], "tools": TOOLS},
]
PAIRS: list[dict[str, Any]] = [
    *runs.preference_rows(6),
    {
        "input": {"messages": [USER, ASSISTANT, USER], "tools": TOOLS},
        "preferred_output": [ASSISTANT],
        "non_preferred_output": [{"role": "assistant", "content": "no", "weight": 1}],
    },
    {"prompt": "one two ", "chosen": "two one", "rejected": "no"},
    {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [{"role": "assistant", "content": "no"}]},
    {"prompt": "one two", "chosen": [ASSISTANT], "rejected": "no"},
]
CORPORA: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "talks": ("supervised", TALKS),
    "conversations": ("supervised", list(CONVERSATIONS.values())),
    "completions": (
        "supervised",
        [{"prompt": "one two ", "completion": "two one"}, {"prompt": "", "completion": "é 你好"}],
    ),
    "texts": ("supervised", [{"text": "one two three"}, {"text": "👋 <|im_end|>"}]),
    "pairs": ("dpo", PAIRS),
}
TEMPLATES = {"chatml": CHAT_TEMPLATE, "thinking": THINKING, "llama": LLAMA_3}
DIGESTS = {
    ("talks", "chatml"): "e68eaed475bbf752",
    ("talks", "thinking"): "e5a7200617b04231",
    ("talks", "llama"): "3b9462976adba271",
    ("conversations", "chatml"): "62ae10267419b606",
    ("conversations", "thinking"): "0200983ce0d939fb",
    ("conversations", "llama"): "140690264daa0949",
    ("pairs", "chatml"): "6e277140d757a57c",
    ("pairs", "thinking"): "da09634e3dd802ba",
    ("pairs", "llama"): "3d0bd3b2f97c3c51",
    ("completions", "chatml"): "bff60885748eff98",
    ("texts", "chatml"): "842adf6f22e02a79",
}


@pytest.mark.parametrize(("corpus", "template"), list(DIGESTS))
def test_token_ids_and_loss_masks_are_those_of_before(tmp_path: Path, corpus: str, template: str) -> None:
    objective, given = CORPORA[corpus]
    tokenizer = load_tokenizer(build_tiny_model(tmp_path / "model", chat_template=TEMPLATES[template]))
    path = runs.write_rows(tmp_path / "rows.jsonl", given)
    rows = load_rows(path, tokenizer=tokenizer, objective=objective, max_sequence_length=4096)
    arrays = (rows.tokens, rows.supervised, rows.offsets, rows.line_numbers)
    digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
    assert digest.startswith(DIGESTS[corpus, template])
