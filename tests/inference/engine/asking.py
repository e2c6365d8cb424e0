"""Adapters of random numbers, and an engine that is stepped by hand: no server, no thread."""

import hashlib
import json
import random
from collections.abc import Iterable
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tunesmith.worker.inference.engine.answering.engine import Engine
from tunesmith.worker.inference.engine.answering.outbox import Delta
from tunesmith.worker.inference.engine.answering.sampling import Sampler, Sampling
from tunesmith.worker.inference.engine.answering.sequence import Sequence
from tunesmith.worker.inference.engine.answering.text import TextStream
from tunesmith.worker.train.models.model import load_tokenizer

MODULES = {  # of the tiny model: [out, in]
    "self_attn.q_proj": (64, 64),
    "self_attn.k_proj": (32, 64),
    "self_attn.v_proj": (32, 64),
    "self_attn.o_proj": (64, 64),
    "mlp.gate_proj": (128, 64),
    "mlp.up_proj": (128, 64),
    "mlp.down_proj": (64, 128),
}
PLAIN = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "use_dora": False, "use_rslora": False}


def write_adapter(
    folder: Path, *, seed: int, rank: int = 4, modules: Iterable[str] = MODULES, layers: int = 2, **config: Any
) -> Path:
    """As the trainer writes one, strong enough that each answers in its own way."""
    folder.mkdir(parents=True, exist_ok=True)
    source = torch.Generator().manual_seed(seed)
    tensors, modules = {}, list(modules)
    for layer in range(layers):
        for module in modules:
            rows, columns = MODULES[module]
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, columns, generator=source) * 0.3
            tensors[f"{name}.lora_B.weight"] = torch.randn(rows, rank, generator=source) * 0.3
    save_file(tensors, folder / "adapter_model.safetensors")
    targets = sorted({module.rpartition(".")[2] for module in modules})
    settings = {**PLAIN, "r": rank, "lora_alpha": 2 * rank, "target_modules": targets, **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


@dataclass
class Answer:
    """What one sequence delivered, until it ended."""

    deltas: list[Delta] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        return [drawn.token for delta in self.deltas for drawn in delta.drawn]

    @property
    def logprobs(self) -> list[float | None]:
        return [drawn.logprob for delta in self.deltas for drawn in delta.drawn]

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def finish_reason(self) -> str | None:
        return self.deltas[-1].finish_reason if self.deltas else None

    @property
    def error(self) -> Any:
        return self.deltas[-1].error if self.deltas else None


class Asker:
    """Asks one engine and steps it."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.tokenizer = engine, load_tokenizer(folder)

    def begin(
        self,
        prompt: Many[int],
        *,
        adapter: str | None = None,
        most_tokens: int = 8,
        seed: int = 0,
        stops: Many[str] = (),
        ends: frozenset[int] = frozenset(),
        **sampling: Any,
    ) -> tuple[Sequence, Answer]:
        answer = Answer()

        def deliver(delta: Delta) -> bool:
            answer.deltas.append(delta)
            return True

        sequence = Sequence(
            tuple(prompt),
            adapter=self.engine.residents.hold(adapter) if adapter else None,
            sampler=Sampler(Sampling(**{"temperature": 0.0, "top_logprobs": 0, **sampling}), seed=seed),
            text=TextStream(self.tokenizer, stops=stops),
            ends=ends,
            most_tokens=most_tokens,
            deliver=deliver,
        )
        self.engine.submit([sequence])
        return sequence, answer

    def ask(self, prompt: Many[int], **named: Any) -> Answer:
        _, answer = self.begin(prompt, **named)
        self.finish()
        return answer

    def finish(self) -> None:
        while self.engine.step():
            pass


def random_prompt(source: random.Random, *, longest: int = 90, vocabulary: int = 512) -> list[int]:
    return [source.randrange(3, vocabulary) for _ in range(source.randint(1, longest))]
