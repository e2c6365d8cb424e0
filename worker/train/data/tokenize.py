"""From marked texts to token ids and a mark on each that the model should learn to write."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from tunesmith.worker.train.chat.conversation import MarkedText

# Put before a completion that must be tokenised apart from its prompt, and taken away again: some tokenizers begin
# every text with a space of their own. The first that stays a token by itself is used.
_SEPARATORS = ("\n", ".", "\t", "|")


class TokenizedText(NamedTuple):
    """ids: int32 [tokens]; marks: bool [tokens], true where a token is supervised."""

    ids: np.ndarray
    marks: np.ndarray


def tokenize(texts: Sequence[MarkedText], tokenizer: PreTrainedTokenizerBase) -> list[TokenizedText]:
    """Tokenise many texts in one call, which the tokenizer shares out among its own threads.

    A prompt gets the tokens that it will have when the model is used: where a token of the whole text would straddle
    its end, what follows is tokenised apart.
    """
    encoded = _encode([text.text for text in texts], tokenizer)
    prompts = [text.text[: text.prompt_end] for text in texts if text.prompt_end]
    alone = iter(_encode(prompts, tokenizer) if prompts else ())
    done = []
    for text, (ids, offsets) in zip(texts, encoded, strict=True):
        tokenized = TokenizedText(ids, _marks(offsets, text.spans))
        if text.prompt_end:
            prompt, _ = next(alone)
            if not np.array_equal(ids[: len(prompt)], prompt):
                tokenized = _apart(text, prompt, tokenizer)
        done.append(_with_stop(tokenized, text.stop, tokenizer))
    return done


def _encode(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[tuple[np.ndarray, np.ndarray]]:
    """(ids [tokens], character offsets [tokens, 2]) of each text."""
    encoded: Any = tokenizer(
        texts,
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    return [
        (np.asarray(ids, dtype=np.int32), np.asarray(offsets, dtype=np.int64).reshape(-1, 2))
        for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]


def _marks(offsets: np.ndarray, spans: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Whether each token overlaps a span. A token that straddles a span's start (a merged header) counts as written."""
    marks = np.zeros(len(offsets), dtype=bool)
    # Some tokenizers give a token that stands for no character the place 0: there the one before counts.
    starts, ends = np.maximum.accumulate(offsets, axis=0).T
    for start, end in spans:
        first = np.searchsorted(ends, start, side="right")
        last = np.searchsorted(starts, end, side="left")
        marks[first:last] = True
    return marks


def _apart(text: MarkedText, prompt: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> TokenizedText:
    """The prompt as it is alone, then the rest without the space that a tokenizer may put before a text."""
    rest = _encode_inside(text.text[text.prompt_end :], tokenizer)
    ids = np.concatenate([prompt, rest])
    return TokenizedText(ids, np.arange(len(ids)) >= len(prompt))


def _encode_inside(text: str, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Ids of a text that does not stand at a beginning."""
    for separator in _SEPARATORS:
        ((ids, offsets),) = _encode([separator + text], tokenizer)
        inside = offsets[:, 0] >= len(separator)
        if np.all(inside | (offsets[:, 1] <= len(separator))):
            return ids[inside]
    ((ids, _),) = _encode([text], tokenizer)
    return ids


def _with_stop(tokenized: TokenizedText, stop: str | None, tokenizer: PreTrainedTokenizerBase) -> TokenizedText:
    if stop is None:
        return tokenized
    number = np.asarray([tokenizer.convert_tokens_to_ids(stop)], dtype=np.int32)
    return TokenizedText(np.concatenate([tokenized.ids, number]), np.append(tokenized.marks, True))
