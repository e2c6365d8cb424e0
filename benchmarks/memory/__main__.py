"""`python -m benchmarks.memory`: training memory by four estimators against tensors counted on the meta device.

The truth is counted, not computed: every parameter of the whole model and its adapter, gradient and optimizer state per
trainable parameter as the trainer keeps them, and the activations that the trainer's own modules save, measured at two
depths and continued to the model's. Work space that comes and goes, context and allocator slack are left out on all
sides. Nothing is downloaded; it runs on a CPU in about a minute.
"""

import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.commands.estimate import estimate_training_usage
from accelerate.utils import calculate_maximum_sizes

from tunesmith.tuning.estimates.memory import NF4_DOUBLE_BITS, Setup, estimate
from tunesmith.tuning.models.catalogue import CONFIGS, find_shape
from tunesmith.tuning.words import Method
from tunesmith.worker.train.profiling.counting import Case, build, layer_bytes, saved_bytes

MODELS = ("smollm2-135m", "llama-3.2-1b", "qwen2.5-7b", "llama-2-7b", "llama-3.1-8b", "qwen3-8b")
GUIDE_BYTES = {Method.FULL: 12.0, Method.LORA: 2.0, Method.QLORA: 0.5}
TOKENS = 2048
COMPARED = ("weights", "gradients", "optimizer", "adapters_and_optimizer", "activations")


@dataclass(frozen=True)
class Line:
    """One configuration. All sizes in bytes; None where a tool has no answer."""

    model: str
    method: Method
    checkpointing: str
    truth: float
    ours: float
    guide: float
    accelerate: float | None
    deepspeed: float | None


def main() -> None:
    warnings.simplefilter("ignore")
    print(f"{TOKENS:,} tokens a micro-step, bf16, rank 16, one GPU; GiB, and the error of each estimate\n")
    print(f"{'model':<14}{'method':<8}{'recompute':<11}{'truth':>8}", end="")
    print("".join(f"{name:>18}" for name in ("ours", "guide", "accelerate", "deepspeed")))
    lines = [_line(model, method, mode) for model in MODELS for method in Method for mode in ("none", "full")]
    for line in lines:
        estimates = (line.ours, line.guide, line.accelerate, line.deepspeed)
        cells = "".join(f"{_cell(value, line.truth):>18}" for value in estimates)
        print(f"{line.model:<14}{line.method.value:<8}{line.checkpointing:<11}{line.truth / 2**30:>8.2f}{cells}")
    print("\nworst error of ours:", f"{max(abs(line.ours / line.truth - 1) for line in lines):.2%}")


def _line(model: str, method: Method, checkpointing: Any) -> Line:
    shape = find_shape(model)
    setup = Setup(
        method=method,
        device="cuda",
        precision="bf16",
        tokens_per_micro_step=TOKENS,
        checkpointing=checkpointing,
        rank=16,
        double_quantization=True,
        fused_passes=True,
    )
    predicted = estimate(shape, setup, budget_bytes=0).items
    full = method is Method.FULL
    parameters = shape.parameters
    return Line(
        model=model,
        method=method,
        checkpointing=checkpointing,
        truth=_truth(model, method, checkpointing=checkpointing),
        ours=sum(size for name, size in predicted.items() if name in COMPARED),
        guide=GUIDE_BYTES[method] * parameters + (0 if full else 160e6),
        accelerate=_accelerate(model) if full else None,
        # estimate_zero2_model_states_mem_needs of DeepSpeed on one GPU without offload: 4 P + 16 P / N.
        deepspeed=20.0 * parameters if full else None,
    )


def _truth(model: str, method: Method, *, checkpointing: str) -> float:
    config = {name: value for name, value in CONFIGS[model].items() if value is not None}
    kind = "full" if method is Method.FULL else "lora"
    case = Case(config, method=kind, checkpointing=checkpointing, tokens=TOKENS)
    layers = config["num_hidden_layers"]
    activations = saved_bytes(case, layers=2) + (layers - 2) * layer_bytes(case, layers=3)
    activations += 2 * TOKENS * config.get("hidden_size", 0) * 2  # hidden states for the head, and their gradient
    return _static(replace(case, checkpointing="none"), method, layers=layers) + activations


def _static(case: Case, method: Method, *, layers: int) -> float:
    """Weights, gradients and optimizer state, parameter by parameter."""
    learner = build(case, layers=layers)
    quantized = {id(linear.weight) for linear in _linears(learner)} if method is Method.QLORA else set()
    total = 0.0
    for parameter in learner.parameters():
        size = parameter.numel()
        if id(parameter) in quantized and not parameter.requires_grad:
            total += size * NF4_DOUBLE_BITS / 8
            continue
        total += size * parameter.element_size()
        if parameter.requires_grad:
            total += size * (4 + 8)  # fp32 gradient, two moments
            total += size * (
                4 if parameter.dtype != torch.float32 else 2 if case.fused else 0
            )  # master, or rounded copy
    return total


def _linears(learner: Any) -> list[torch.nn.Linear]:
    head = learner.causal_model.get_output_embeddings()
    return [module for module in learner.modules() if isinstance(module, torch.nn.Linear) and module is not head]


def _accelerate(model: str) -> float:
    """The peak that `accelerate estimate-memory` prints for training with Adam in bf16."""
    config = {name: value for name, value in CONFIGS[model].items() if value is not None}
    empty = build(Case(config, method="full", precision="fp32"), layers=config["num_hidden_layers"]).model
    total, _ = calculate_maximum_sizes(empty)
    return float(max(estimate_training_usage(total, "bfloat16").values()))


def _cell(value: float | None, truth: float) -> str:
    return "-" if value is None else f"{value / 2**30:.2f} ({value / truth - 1:+.0%})"


if __name__ == "__main__":
    main()
