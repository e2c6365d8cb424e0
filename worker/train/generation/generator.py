"""Greedy answers of a model folder, with or without an adapter: samples in training, and comparing two models."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from worker.train.data.chat import ChatRenderer
from worker.train.failures import user_error


class Speaker:
    """A model that answers prompts."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._renderer = ChatRenderer(tokenizer)

    @classmethod
    def load(cls, folder: Path, *, adapter: Path | None, tokenizer: PreTrainedTokenizerBase) -> Speaker:
        """From files, in bf16, on the accelerator if there is one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, local_files_only=True, trust_remote_code=False, use_safetensors=True
        ).to(device)
        if adapter is not None:
            model = _with_adapter(model, adapter)
        return cls(model.eval(), tokenizer)

    def answer(
        self, rows: Sequence[dict[str, Any]], *, max_new_tokens: int, without_adapter: bool = False
    ) -> list[dict[str, Any]]:
        """One {"text", "tokens", "finished"} per row; `finished` is false where `max_new_tokens` cut the answer off."""
        prompts = self._tokenizer([self._prompt(row) for row in rows], add_special_tokens=False)["input_ids"]
        with self._model.disable_adapter() if without_adapter else contextlib.nullcontext():
            return self.go_on(prompts, max_new_tokens=max_new_tokens)

    @torch.no_grad()  # not inference mode: what a model in training keeps of this pass may meet a gradient later
    def go_on(
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
            eos_token_id=self._ends(),
            pad_token_id=padding,
        )
        return [self._answer(ids) for ids in written[:, length:].tolist()]

    def _prompt(self, row: dict[str, Any]) -> str:
        if "prompt" in row:
            return str(row["prompt"])
        messages = list(row["messages"])
        if messages and messages[-1]["role"] == "assistant":
            messages.pop()
        return self._renderer.prompt(messages, tools=row.get("tools"))

    def _answer(self, ids: list[int]) -> dict[str, Any]:
        ends = self._ends()
        length = next((place for place, token in enumerate(ids) if token in ends), None)
        text = self._tokenizer.decode(ids[:length], skip_special_tokens=True).strip()
        return {"text": text, "tokens": len(ids) if length is None else length, "finished": length is not None}

    def _padding(self) -> int:
        known = (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id, 0)
        return next(token for token in known if token is not None)

    def _ends(self) -> list[int]:
        """Every token that the tokenizer or the model's generation settings call an end."""
        configured = self._model.generation_config.eos_token_id
        listed = configured if isinstance(configured, list) else [configured]
        return sorted({token for token in (*listed, self._tokenizer.eos_token_id) if token is not None})


def _with_adapter(model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, adapter, local_files_only=True)
    except (RuntimeError, ValueError, KeyError) as error:
        raise user_error(
            "adapter_of_another_base",
            f"The adapter {adapter.name} does not fit this base model.",
            hint="Use the adapter with the base model it was trained on.",
            param="adapter",
        ) from error
