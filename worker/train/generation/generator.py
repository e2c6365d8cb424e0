"""Greedy answers of a model folder, with or without an adapter: samples in training, and answers to be scored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tunesmith.tuning.codes import ErrorCode
from tunesmith.worker.train.failures import user_error
from tunesmith.worker.train.models.model import load_plainly


class Generator:
    """A model that goes on with prompts. It stops at `ends` and at what its own settings call an end."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, *, ends: Iterable[str] = ()) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._ends = self._numbers(ends)

    @classmethod
    def load(
        cls, folder: Path, *, adapter: Path | None, tokenizer: PreTrainedTokenizerBase, ends: Iterable[str] = ()
    ) -> Generator:
        """From files, in bf16, on the accelerator if there is one.

        Raises:
            JobFailure: `broken_model`, or `adapter_of_another_base`.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model: Any = load_plainly(folder, dtype=torch.bfloat16).to(device)
        if adapter is not None:
            model = _with_adapter(model, adapter)
        return cls(model.eval(), tokenizer, ends=ends)

    def answer(self, prompts: Sequence[str], *, max_new_tokens: int) -> list[dict[str, Any]]:
        """One {"text", "tokens", "finished"} per prompt; `finished` is false where `max_new_tokens` cut it off."""
        ids = self._tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
        return self.complete(ids, max_new_tokens=max_new_tokens)

    @torch.no_grad()  # not inference mode: what a model in training keeps of this pass may meet a gradient later
    def complete(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, max_seconds: float | None = None
    ) -> list[dict[str, Any]]:
        """The same for prompts that are token ids already. No random number is drawn."""
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


def _with_adapter(model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, adapter, local_files_only=True)
    except (RuntimeError, ValueError, KeyError) as error:
        raise user_error(
            ErrorCode.ADAPTER_OF_ANOTHER_BASE,
            f"The adapter {adapter.name} does not fit this base model.",
            hint="Use the adapter with the base model it was trained on.",
            param="adapter",
        ) from error
