"""`python -m benchmarks.serving.steps [ROUNDS]`: a token of sixteen answers, ours and PEFT's in turn in one process.

Seconds of the processor vary by half within a minute on a machine that is shared. Two steps one after the other meet
nearly the same machine, so it is their ratio that is told: the median over the rounds, and its quarters.
"""

import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunesmith.worker.train import environment  # noqa: F401 - before torch  # isort: skip
import torch
from transformers import DynamicCache

from benchmarks.serving import ours, peers, workload

FIRST_TOKENS = 3  # written before anything is measured
Step = Callable[[], object]


def main() -> None:
    warnings.simplefilter("ignore")
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    model, names = peers.mixed_batch(workload.REQUESTS)
    with tempfile.TemporaryDirectory() as folder:
        steps: dict[str, Step] = {
            "ours, 16 adapters": our_steps(folder=Path(folder)),
            "peft, 16 adapters": peft_steps(model, names),
            "peft, 1 adapter": peft_steps(model, [names[0]] * len(names)),
        }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            began = time.process_time()
            step()
            seconds[name].append(time.process_time() - began)
    _tell(seconds)


def _tell(seconds: dict[str, list[float]]) -> None:
    ours_seconds = next(iter(seconds.values()))
    for name, took in seconds.items():
        ratios = [theirs / mine for theirs, mine in zip(took, ours_seconds, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        told = {"side": name, "times_ours": round(middle, 2), "quarters": [round(low, 2), round(high, 2)]}
        print(json.dumps({**told, "least_cpu_ms": round(1000 * min(took))}), flush=True)


def our_steps(*, folder: Path) -> Step:
    """A step of our engine, sixteen answers under way, each of an adapter of its own."""
    asker = ours.Asker(workload.model_folder(), is_run=False)
    for index in range(workload.REQUESTS):
        ours.load_adapter(asker, folder / "adapter", index)
    begun = []
    for index, prompt in enumerate(workload.WRITING.prompts()):
        sequence, _ = asker.begin(prompt, adapter=f"a{index}", tokens=1000)
        begun.append(sequence)
    asker.engine.submit(begun)
    while min(sequence.written for sequence in begun) < FIRST_TOKENS:
        asker.engine.step()
    return asker.engine.step


def peft_steps(model: Any, names: list[str]) -> Step:
    """What `generate` does for a token, without what it has around it: the model, and the likeliest token."""
    ids, mask = peers.filled_up(workload.WRITING.prompts())
    state: dict[str, Any] = {"ids": ids, "mask": mask, "cache": DynamicCache()}

    @torch.inference_mode()
    def step() -> None:
        with model._enable_peft_forward_hooks(adapter_names=names):
            found = model.base_model.model(
                input_ids=state["ids"],
                attention_mask=state["mask"],
                position_ids=(state["mask"].cumsum(-1) - 1).clamp(min=0)[:, -state["ids"].shape[1] :],
                past_key_values=state["cache"],
                logits_to_keep=1,
                adapter_names=names,
            )
        state["ids"] = found.logits[:, -1].argmax(-1, keepdim=True)
        state["mask"] = torch.cat([state["mask"], torch.ones_like(state["ids"])], dim=1)

    for _ in range(FIRST_TOKENS):
        step()
    return step


if __name__ == "__main__":
    main()
