"""`python -m benchmarks.serving.peers peft|models ADAPTERS...`: the same through transformers and PEFT.

`peft` is one base with all adapters and `generate(adapter_names=...)`: one batch, each row with its own adapter.
`models` is a merged model for each adapter: its rows are a batch, one model after another.
"""

import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

from tunesmith.worker.train import environment  # noqa: F401 - before torch  # isort: skip
import torch
from transformers import AutoModelForCausalLM

from benchmarks.serving import workload

Generate = Callable[..., Any]
MOST_MODELS = 16  # of 540 MB each in fp32


def main() -> None:
    warnings.simplefilter("ignore")
    side, counts = sys.argv[1], sorted(map(int, sys.argv[2:]))
    {"peft": _peft, "models": _models}[side](counts)


def _peft(counts: list[int]) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=workload.RANK, lora_alpha=workload.ALPHA, target_modules="all-linear", init_lora_weights=False
    )
    model = get_peft_model(_load(), config, adapter_name="a0").eval()
    for adapters in counts:
        for index in range(len(model.peft_config), adapters):
            model.add_adapter(f"a{index}", config)
        model.eval()
        names = [f"a{workload.adapter_of(index, adapters=adapters)}" for index in range(workload.REQUESTS)]
        prompts = workload.prompts()
        _generate(model, prompts, tokens=2, adapter_names=names)
        began = time.perf_counter()
        _generate(model, prompts, tokens=1, adapter_names=names)
        first = time.perf_counter() - began
        began, cpu_began = time.perf_counter(), time.process_time()
        _generate(model, prompts, tokens=workload.NEW_TOKENS, adapter_names=names)
        took = time.perf_counter() - began, time.process_time() - cpu_began
        _tell("peft", adapters, took=took, first=first, idle=_idle(model, adapter_names=["a0"]))


def _models(counts: list[int]) -> None:
    models = [_load()]
    for adapters in (count for count in counts if count <= MOST_MODELS):
        models += [_load() for _ in range(adapters - len(models))]
        prompts = workload.prompts()
        shares = [
            [prompt for place, prompt in enumerate(prompts) if workload.adapter_of(place, adapters=adapters) == index]
            for index in range(adapters)
        ]
        _generate(models[0], shares[0], tokens=2)
        began, cpu_began, firsts = time.perf_counter(), time.process_time(), []
        for model, share in zip(models, shares, strict=True):
            _generate(model, share, tokens=1)
            firsts.append(time.perf_counter() - began)
            _generate(model, share, tokens=workload.NEW_TOKENS - 1)
        took = time.perf_counter() - began, time.process_time() - cpu_began
        _tell("models", adapters, took=took, first=sorted(firsts)[len(firsts) // 2], idle=_idle(models[0]))


def _idle(model: Any, **named: Any) -> tuple[float, float]:
    """Seconds to the first token of a short prompt alone, and seconds of the processor for it."""
    seconds, cpu_began = [], time.process_time()
    for _ in range(3):
        began = time.perf_counter()
        _generate(model, [workload.short_prompt()], tokens=1, **named)
        seconds.append(time.perf_counter() - began)
    return min(seconds), (time.process_time() - cpu_began) / len(seconds)


def _tell(side: str, adapters: int, *, took: tuple[float, float], first: float, idle: tuple[float, float]) -> None:
    tokens = workload.REQUESTS * workload.NEW_TOKENS
    workload.tell(
        side,
        adapters,
        tokens_per_second=tokens / took[0],
        tokens_per_cpu_second=tokens / took[1],
        first_token_seconds=first,
        idle_first_token_seconds=idle[0],
        idle_first_token_cpu_seconds=idle[1],
    )


def _load() -> Any:
    return AutoModelForCausalLM.from_pretrained(workload.model_folder(), dtype=torch.float32, local_files_only=True)


@torch.inference_mode()
def _generate(model: Any, prompts: list[list[int]], *, tokens: int, **named: Any) -> None:
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    model.generate(
        input_ids=ids,
        attention_mask=mask,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
        **named,
    )


if __name__ == "__main__":
    main()
