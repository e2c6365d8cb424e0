"""(d) Tokens a second and MFU of micro-steps, beside plain PEFT in transformers and beside torch.compile'd layers."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu import shapes
from benchmarks.gpu.memory import _obstacle
from benchmarks.gpu.setting import Setting, free_memory

SECONDS_A_CASE = 25
LONG, SHORT = "2 rows of 4,096", "32 rows of 256, 40 % supervised"


@dataclass(frozen=True)
class Case:
    """One side of a comparison."""

    side: str  # ours, peft, compiled
    method: str
    rows: str
    mode: str = "none"
    float8: bool = False
    without: str = ""  # an operation that goes through plain PyTorch instead of Triton
    size: str = "8b"


def cases() -> Iterator[Case]:
    """The most wanted first: a piece that runs out of time leaves the others."""
    yield Case("ours", "lora", LONG)
    yield Case("peft", "lora", LONG)
    yield Case("ours", "lora", SHORT)
    yield Case("peft", "lora", SHORT)
    yield Case("ours", "lora", LONG, float8=True)
    yield Case("ours", "lora", LONG, without="all")
    for operation in ("rms_norm", "gate", "rotate", "cross_entropy"):
        yield Case("ours", "lora", LONG, without=operation)
    yield Case("ours", "qlora", LONG)
    yield Case("ours", "qlora", SHORT)
    for mode in ("selective", "mlp", "full"):
        yield Case("ours", "lora", LONG, mode=mode)
    yield Case("ours", "full", LONG, size="8b, 8 layers")
    yield Case("ours", "full", SHORT, size="8b, 8 layers")
    yield Case("compiled", "lora", LONG)
    yield Case("compiled", "lora", SHORT)


def run(setting: Setting) -> None:
    """One line a case; with all its optimizer state no GPU of today holds the 8B shape, so full has 8 of its layers."""
    learners: dict[tuple[Any, ...], Any] = {}
    for case in sorted(cases(), key=_build_order):
        named = {name: value for name, value in vars(case).items() if value}
        problem = _obstacle(case.method)
        if problem:
            setting.record(**named, outcome=f"not here: {problem}")
            continue
        key = (case.side, case.method, case.float8, case.size)
        if key not in learners:
            learners.clear()
            free_memory(setting.device)
        setting.tried(
            lambda case=case, key=key: _measure(setting, case, learners, key),  # type: ignore[misc]
            needs_seconds=0 if setting.tiny else SECONDS_A_CASE,
            **named,
        )
        free_memory(setting.device)


def _build_order(case: Case) -> tuple[int, ...]:
    """What shares a model stays together, in the order of first mention."""
    keys = list(dict.fromkeys((one.side, one.method, one.float8, one.size) for one in cases()))
    return (keys.index((case.side, case.method, case.float8, case.size)),)


def _measure(
    setting: Setting, case: Case, learners: dict[tuple[Any, ...], Any], key: tuple[Any, ...]
) -> dict[str, Any]:
    import torch

    from tunesmith.worker.train.kernels import choice, elementwise
    from tunesmith.worker.train.models.model import enable_checkpointing

    config = shapes.config_of(case.size, tiny=setting.tiny)
    shape = shapes.shape_of(case.size, tiny=setting.tiny)
    ours = case.side == "ours"
    attention = shapes.best_attention(config, device=setting.device) if ours else "library"
    if key not in learners:
        learners[key] = shapes.build(
            config, method=case.method, device=setting.device, attention=attention, float8=case.float8
        )
        if case.side == "compiled":
            _compile_layers(learners[key])
    learner, rejected = learners[key], {}
    if setting.device == "cuda":
        rejected = choice.put_to_use(shape, device=torch.device("cuda"), dtype=torch.bfloat16)
        for operation in elementwise.OPERATIONS if case.without == "all" else (case.without,):
            elementwise.use(operation, None)
    lengths, supervised = _rows(case.rows, tiny=setting.tiny)
    if ours:
        enable_checkpointing(learner.causal_model, case.mode)
        step = _our_step(
            learner, shapes.batch(lengths, vocabulary=shape.vocab_size, device=setting.device, supervised=supervised)
        )
    else:
        step = _peft_step(learner, lengths, shape.vocab_size, supervised, setting.device)
    seconds, count = _median_seconds(step, setting)
    return _figures(case, shape, lengths, supervised=supervised, seconds=seconds, setting=setting) | {
        "attention": attention, "steps": count, "triton": sorted(elementwise.in_use()), "rejected": rejected,
    }  # fmt: skip


def _our_step(learner: Any, rows: Any) -> Any:
    from tunesmith.worker.train.kernels.loss import summed_cross_entropy

    def step() -> None:
        (learner(rows, summed_cross_entropy).loss / rows.supervised_tokens).backward()
        for _, value in learner.trainable():
            value.grad = None

    return step


def _peft_step(model: Any, lengths: list[int], vocabulary: int, supervised: float, device: str) -> Any:
    """Rows as a padded batch through transformers' own forward pass and loss."""
    import torch

    longest = max(lengths)
    tokens = torch.randint(3, vocabulary, (len(lengths), longest), device=device)
    mask = (torch.arange(longest, device=device)[None] < torch.tensor(lengths, device=device)[:, None]).long()
    labels = torch.where(mask.bool(), tokens, -100)
    labels[:, : int(longest * (1 - supervised))] = -100
    padded = None if len(set(lengths)) == 1 else mask

    def step() -> None:
        model(input_ids=tokens, attention_mask=padded, labels=labels, use_cache=False).loss.backward()
        for value in model.parameters():
            value.grad = None

    return step


def _compile_layers(model: Any) -> None:
    """Each layer of transformers' and PEFT's own modules by torch.compile, as others do."""
    import torch
    from transformers.modeling_layers import GradientCheckpointingLayer

    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.forward = torch.compile(module.forward, dynamic=False)  # type: ignore[method-assign]


def _rows(name: str, *, tiny: bool) -> tuple[list[int], float]:
    if name == LONG:
        return ([32] * 2 if tiny else [4096] * 2), 1.0
    return ([8] * 4 if tiny else [256] * 32), 0.4


def _median_seconds(step: Any, setting: Setting) -> tuple[float, int]:
    import torch

    wanted, times = (2, []) if setting.tiny else (8, [])  # type: tuple[int, list[float]]
    for index in range(wanted + 2):
        began = time.perf_counter()
        step()
        if setting.device == "cuda":
            torch.cuda.synchronize()
        if index >= 2:
            times.append(time.perf_counter() - began)
        if setting.seconds_left < 10 and times and not setting.tiny:
            break
    return sorted(times)[len(times) // 2], len(times)


def _figures(
    case: Case, shape: Any, lengths: list[int], *, supervised: float, seconds: float, setting: Setting
) -> dict[str, Any]:
    import torch

    from tunesmith.tuning.estimates.utilization import StepWork, data_sheet_flops_per_second, training_flops
    from tunesmith.worker.train.loop.utilization import _gpu

    tokens = sum(lengths)
    adapter = None if case.method == "full" else shape.adapter_parameters(rank=shapes.RANK, targets="all-linear")
    work = StepWork(tokens, int(tokens * supervised), sum(length**2 for length in lengths))
    found = {"tokens_per_second": tokens / seconds, "milliseconds": seconds * 1e3}
    if setting.device == "cuda":
        rate = data_sheet_flops_per_second(_gpu(torch.device("cuda")))
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        if rate:
            found["mfu"] = training_flops(shape, work, adapter_parameters=adapter) / seconds / rate
    return found
