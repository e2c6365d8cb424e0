"""A completion gets the tokens that a model would write after the prompt, under any kind of tokenizer."""

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tunesmith.worker.train.chat.conversation import MarkedText
from tunesmith.worker.train.data.tokenize import tokenize


@pytest.fixture(scope="module")
def sentence_piece() -> Any:
    """As Llama 2's: a space before every text, spaces written as a low line."""
    words = ["▁", "▁Answer", ":", "▁Paris", "Par", "is", "▁Par", "def", "▁def", "first", ",", "▁second", "x", "y", "\n"]
    vocabulary = {word: float(-index) for index, word in enumerate(["<unk>", "</s>", *words])}
    core = Tokenizer(models.Unigram(list(vocabulary.items()), unk_id=0, byte_fallback=False))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    core.add_special_tokens(["</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def byte_level() -> Any:
    core = Tokenizer(
        models.BPE(
            vocab={"a": 0, "b": 1, "ab": 2, "c": 3, "Ġ": 4, "Ġc": 5, "Ċ": 6, ".": 7},
            merges=[("a", "b"), ("Ġ", "c")],
        )
    )
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")


def split(tokenizer: Any, prompt: str, completion: str) -> tuple[list[str], list[str]]:
    """Tokens that are not taught, and those that are."""
    text = MarkedText(
        prompt + completion, ((len(prompt), len(prompt + completion)),), prompt_end=len(prompt), stop="</s>"
    )
    ((ids, marks),) = tokenize([text], tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(ids.tolist())
    return (
        [token for token, is_taught in zip(tokens, marks, strict=True) if not is_taught],
        [token for token, is_taught in zip(tokens, marks, strict=True) if is_taught],
    )


def test_a_completion_gets_no_second_space(sentence_piece: Any) -> None:
    assert split(sentence_piece, "Answer:", " Paris") == (["▁Answer", ":"], ["▁Paris", "</s>"])


def test_a_completion_that_continues_a_word_begins_without_a_space(sentence_piece: Any) -> None:
    assert split(sentence_piece, "Par", "is") == (["▁Par"], ["is", "</s>"])
    assert split(sentence_piece, "def first", ", second") == (["▁def", "▁", "first"], [",", "▁second", "</s>"])


def test_a_prompt_keeps_the_tokens_that_it_has_alone(byte_level: Any) -> None:
    assert split(byte_level, "a", "b") == (["a"], ["b", "</s>"])
    assert split(byte_level, "ab ", "c") == (["ab", "Ġ"], ["c", "</s>"])
    assert split(byte_level, "ab", " c") == (["ab"], ["Ġc", "</s>"])


def test_every_token_of_an_emoji_is_taught(byte_level: Any) -> None:
    text = MarkedText("aé", ((1, 2),))
    ((ids, marks),) = tokenize([text], byte_level)
    assert marks.tolist() == [False] + [True] * (len(ids) - 1)
