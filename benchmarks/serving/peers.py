"""`python -m benchmarks.serving.peers peft|models ADAPTERS...`: the same through transformers and PEFT.

`peft` is one base with all adapters and `generate(adapter_names=...)`: one batch, each row with its own adapter.
`models` is a merged model for each adapter: its rows are a batch, one model after another.
"""

import sys
import time
import warnings
from typing import Any

from tunesmith.worker.train import environment  # noqa: F401 - before torch  # isort: skip
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

from benchmarks.serving import workload
from benchmarks.serving.workload import Clock, Load, Memory

MOST_MODELS = 16  # of 540 MB each in fp32


def main() -> None:
    warnings.simplefilter("ignore")
    side, counts = sys.argv[1], sorted(map(int, sys.argv[2:]))
    {"peft": _peft, "models": _models}[side](counts, Memory())


def _peft(counts: list[int], memory: Memory) -> None:
    model = None
    for adapters in counts:
        model, names = mixed_batch(adapters, model=model)
        _generate(model, workload.WRITING.prompts(), tokens=2, adapter_names=names)
        for load in workload.LOADS:
            clock = Clock.start()
            first = _generate(model, load.prompts(), tokens=load.new_tokens, adapter_names=names)
            took = clock.seconds()
            idle = _idle(model, adapter_names=["a0"])
            _tell("peft", adapters, load, took=took, first=first, idle=idle, memory=memory)


def mixed_batch(adapters: int, *, model: Any = None) -> tuple[Any, list[str]]:
    """One base with so many adapters, and the adapter of each row."""
    config = LoraConfig(
        r=workload.RANK, lora_alpha=workload.ALPHA, target_modules="all-linear", init_lora_weights=False
    )
    model = model or get_peft_model(_load(), config, adapter_name="a0")
    for index in range(len(model.peft_config), adapters):
        model.add_adapter(f"a{index}", config)
    names = [f"a{workload.adapter_of(index, adapters=adapters)}" for index in range(workload.REQUESTS)]
    return model.eval(), names


def filled_up(prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and their mask, the shorter ones filled up in front."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


def _models(counts: list[int], memory: Memory) -> None:
    models = [_load()]
    for adapters in (count for count in counts if count <= MOST_MODELS):
        models += [_load() for _ in range(adapters - len(models))]
        for load in workload.LOADS:
            shares = _shares(load.prompts(), adapters=adapters)
            _generate(models[0], shares[0], tokens=1)
            clock, firsts = Clock.start(), []
            for model, share in zip(models, shares, strict=True):
                waited = clock.seconds()[0]
                firsts.append(waited + _generate(model, share, tokens=load.new_tokens))
            took, first = clock.seconds(), sorted(firsts)[len(firsts) // 2]
            _tell("models", adapters, load, took=took, first=first, idle=_idle(models[0]), memory=memory)


def _shares(prompts: list[list[int]], *, adapters: int) -> list[list[list[int]]]:
    """The prompts of each adapter."""
    return [
        [prompt for place, prompt in enumerate(prompts) if workload.adapter_of(place, adapters=adapters) == index]
        for index in range(adapters)
    ]


def _idle(model: Any, **named: Any) -> tuple[float, float]:
    """Seconds to the first token of a short prompt alone, and seconds of the processor for it: the least of three."""
    found = []
    for _ in range(3):
        clock = Clock.start()
        _generate(model, [workload.short_prompt()], tokens=1, **named)
        found.append(clock.seconds())
    return min(wall for wall, _ in found), min(cpu for _, cpu in found)


def _tell(
    side: str,
    adapters: int,
    load: Load,
    *,
    took: tuple[float, float],
    first: float,
    idle: tuple[float, float],
    memory: Memory,
) -> None:
    tokens = workload.REQUESTS * load.new_tokens
    workload.tell(
        side,
        adapters,
        load,
        tokens_per_second=tokens / took[0],
        tokens_per_cpu_second=tokens / took[1],
        first_token_seconds=first,
        idle_first_token_seconds=idle[0],
        idle_first_token_cpu_seconds=idle[1],
        over_base_bytes=memory.over_base_bytes(workload.BASE_BYTES),
    )


def _load() -> Any:
    return AutoModelForCausalLM.from_pretrained(workload.model_folder(), dtype=torch.float32, local_files_only=True)


class _First(StoppingCriteria):
    """Stops nothing; notes when a batch had its first token."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:  # noqa: ARG002
        self.seconds.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


@torch.inference_mode()
def _generate(model: Any, prompts: list[list[int]], *, tokens: int, **named: Any) -> float:
    """Seconds until every row had its first token."""
    ids, mask = filled_up(prompts)
    first, began = _First(), time.perf_counter()
    model.generate(
        input_ids=ids,
        attention_mask=mask,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
        stopping_criteria=StoppingCriteriaList([first]),
        **named,
    )
    return first.seconds[0] - began


if __name__ == "__main__":
    main()
