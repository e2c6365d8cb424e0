"""Greedy answers of a model in memory: samples in training, and answers to be scored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase


class Generator:
    """A model that goes on with prompts. It stops at `ends` and at what its own settings call an end."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, *, ends: Iterable[str] = ()) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._ends = self._numbers(ends)

    @torch.no_grad()  # not inference mode: what a model in training keeps of this pass may meet a gradient later
    def complete(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, max_seconds: float | None = None
    ) -> list[dict[str, Any]]:
        """One {"text", "tokens", "finished"} per prompt of token ids; no random number is drawn.

        `finished` is false where `max_new_tokens` or the time cut the answer off.
        """
        length = max(map(len, prompts))
        padding = self._padding()
        ids = [[padding] * (length - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        written = self._model.generate(
            input_ids=torch.tensor(ids, device=self._model.device),
            attention_mask=torch.tensor(mask, device=self._model.device),
            max_new_tokens=max_new_tokens,
            max_time=max_seconds,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            use_cache=True,
            eos_token_id=self._ends or None,
            pad_token_id=padding,
        )
        return [self._answer(ids) for ids in written[:, length:].tolist()]

    def _answer(self, ids: list[int]) -> dict[str, Any]:
        length = next((place for place, token in enumerate(ids) if token in self._ends), None)
        text = self._tokenizer.decode(ids[:length], skip_special_tokens=True).strip()
        return {"text": text, "tokens": len(ids) if length is None else length, "finished": length is not None}

    def _padding(self) -> int:
        known = (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id, 0)
        return next(token for token in known if token is not None)

    def _numbers(self, ends: Iterable[str]) -> list[int]:
        """Ids of `ends`, and every other that the tokenizer or the model's generation settings call an end."""
        configured = self._model.generation_config.eos_token_id
        listed = configured if isinstance(configured, list) else [configured]
        named = [self._tokenizer.convert_tokens_to_ids(end) for end in ends]
        return sorted({token for token in (*listed, *named, self._tokenizer.eos_token_id) if token is not None})
