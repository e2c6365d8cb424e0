"""The preview of what is taught shows the tokens that training supervises."""

import json
from pathlib import Path

from tests.tiny_model import build_tokenizer
from tunesmith.worker.train.mask_preview import preview


def test_the_assistants_words_and_the_end_of_its_turn_are_taught(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "two"}, {"role": "assistant", "content": "one"}]
    (row,) = preview(build_tokenizer(tmp_path), [json.dumps({"messages": messages}).encode()])
    taught = [text for text, is_taught in row["parts"] if is_taught]
    assert len(taught) == 1
    assert taught[0].startswith("one")
    assert 0 < row["supervised_tokens"] < row["tokens"]


def test_of_a_completion_the_prompt_is_not_taught(tmp_path: Path) -> None:
    (row,) = preview(build_tokenizer(tmp_path), [b'{"prompt": "two ", "completion": "one"}'])
    assert [is_taught for _, is_taught in row["parts"]] == [False, True]


def test_a_pair_is_two_rows(tmp_path: Path) -> None:
    rows = preview(build_tokenizer(tmp_path), [b'{"prompt": "a ", "chosen": "one", "rejected": "two"}'])
    assert len(rows) == 2
