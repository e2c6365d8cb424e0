"""Counts what two processes under DeepSpeed hold, tensor by tensor; prints one JSON object for the cases of `CASES`."""

import gc
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.ports import free_port

CONFIG = {
    "model_type": "llama",
    "hidden_size": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 640,
    "vocab_size": 4096,
    "num_hidden_layers": 6,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
TOKENS, PROCESSES, RANK = 256, 2, 16
CASES = [("full", 1), ("full", 2), ("full", 3), ("lora", 3)]


def main() -> None:
    import deepspeed  # noqa: F401 - before the fork

    from tunesmith.worker.train.methods import lora  # noqa: F401
    from tunesmith.worker.train.optim import zero

    zero.settle_environment("cpu")
    gc.collect()
    gc.freeze()  # what was imported is nothing to count, and looking through it took a third of the time
    print(json.dumps({f"{method} {stage}": _case(method, stage) for method, stage in CASES}))


def _case(method: str, stage: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        port, report = free_port(), Path(folder) / "report.json"
        started = [_fork(method, stage, rank, port, report) for rank in range(PROCESSES)]
        for pid in started:
            os.waitpid(pid, 0)
        found: dict[str, float] = json.loads(report.read_text())
    return found


def _fork(method: str, stage: int, rank: int, port: int, report: Path) -> int:
    if pid := os.fork():
        return pid
    try:
        os.dup2(2, 1)  # DeepSpeed prints
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(PROCESSES)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        found = _trained(method, stage)
        if rank == 0:
            report.write_text(json.dumps(found))
    finally:
        os._exit(0)


def _trained(method: str, stage: int) -> dict[str, float]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests import plans
    from tunesmith.tuning.plan import Lora
    from tunesmith.worker.train.adapters.adapter import attach_adapter
    from tunesmith.worker.train.attention import packed
    from tunesmith.worker.train.models.model import Learner
    from tunesmith.worker.train.optim import zero
    from tunesmith.worker.train.profiling.counting import Case, _batch

    torch.distributed.init_process_group("gloo")
    plan = plans.plan(method=method, world_size=PROCESSES, zero_stage=stage, precision="bf16")
    packed.register()
    config = AutoConfig.for_model(**CONFIG)
    with zero.weights_shared_out(plan):
        model: Any = _made(lambda: AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation=packed.PACKED
        ), stage, zero)  # fmt: skip
    if method == "lora":
        lora = Lora(rank=RANK, alpha=32, dropout=0, target_modules="all-linear", trainable_parameters=1)
        model = attach_adapter(model, lora, continue_from=None, seed=0)
    bare = Learner(model).train()
    learner, optimizer = zero.with_optimizer(bare, plan=plan, processes=PROCESSES)
    batch = _batch(Case(CONFIG, tokens=TOKENS, device="cpu"))
    for _ in range(2):  # the second pass finds moments
        with _counted(bare) as saved:
            loss = learner(batch, lambda hidden, *_: hidden.float().sum() * 1e-3)
        optimizer.backward(loss, last=True)
        del loss
        held = _held_bytes()
        optimizer.clip(plan.max_gradient_norm)
        optimizer.step(learning_rate=1e-4)
    sizes = zero.sizes_of(bare)
    return {
        "held": held,
        "saved_per_layer_and_token": sum(saved) / (CONFIG["num_hidden_layers"] - 2) / TOKENS,  # type: ignore[operator]
        "parameters": sum(map(zero.whole_size, bare.parameters())),
        "trainable": sum(zero.whole_size(value) for value in bare.parameters() if value.requires_grad),
        "reduced": sizes.reduced,
    }


def _made(make: Any, stage: int, zero: Any) -> Any:
    """Shared out while it is made, as `from_pretrained` does it."""
    if stage < 3:
        return make()
    import deepspeed

    from tests import plans

    plan = plans.plan(world_size=PROCESSES, zero_stage=stage, precision="bf16")
    with deepspeed.zero.Init(config_dict_or_path=zero._config(plan, zero._UNTIL_LOADED)):
        return make()


def _held_bytes() -> int:
    """Of all tensors that Python can reach, which leaves out what autograd alone holds."""
    import torch

    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors = [each for each in gc.get_objects() if isinstance(each, torch.Tensor)]
    return sum({each.untyped_storage()._cdata: each.untyped_storage().nbytes() for each in tensors}.values())


@contextmanager
def _counted(learner: Any) -> Iterator[list[int]]:
    """Sizes of the storages that inner layers save; weights, which DeepSpeed takes away again, and angles left out."""
    import torch

    from tunesmith.worker.train.models.text_part import layers_of

    sizes: list[int] = []
    known = {value.untyped_storage()._cdata for value in learner.buffers()}
    kept: list[Any] = []
    inside = False

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        key = tensor.untyped_storage()._cdata
        kept.append(tensor)
        if inside and not hasattr(tensor, "ds_id") and key not in known and tensor.shape[:2] != (1, 1):
            known.add(key)
            sizes.append(tensor.untyped_storage().nbytes())
        return tensor

    def turn(value: bool) -> Any:
        def hook(*_: Any) -> None:
            nonlocal inside
            inside = value

        return hook

    parts = layers_of(learner.causal_model)[1:-1]
    handles = [part.register_forward_pre_hook(turn(True)) for part in parts]
    handles += [part.register_forward_hook(turn(False)) for part in parts]
    kept += [value.data for value in learner.parameters()]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes
    for handle in handles:
        handle.remove()


if __name__ == "__main__":
    sys.exit(main())
