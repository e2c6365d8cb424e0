"""The attention kernel that this process really uses: the planned one if it passes a trial here, else the next.

A kernel that is installed may still fail on this GPU, or be of a version that reads its arguments differently. So each
is tried on two short segments, forward and backward, and compared with PyTorch's plain attention before it is trusted.
"""

import importlib.util
from collections.abc import Collection
from dataclasses import dataclass

import torch

from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Attention, Plan
from tunesmith.tuning.search.attention_kernel import NAMES, NEEDED_PACKAGES, Capability, ladder, obstacle
from tunesmith.worker.train.attention.packed import segment_attention
from tunesmith.worker.train.attention.segments import Scores, Segments
from tunesmith.worker.train.recorder import Recorder

# Where a package is imported by another name.
MODULES = {"flash_attn_3": "flash_attn_interface", "flash_attn_4": "flash_attn.cute"}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
TRIAL_LENGTHS = (5, 140)
TRIAL_WINDOWS = (None, 64)
TOLERANCE = 0.03  # of the largest value: a few roundings of bf16


@dataclass(frozen=True)
class Choice:
    """The kernel to use, and a sentence for each that was considered before it."""

    attention: Attention
    rejected: tuple[str, ...] = ()


def choose_attention(plan: Plan, shape: ModelShape, *, device: torch.device, recorder: Recorder) -> Attention:
    """The kernel for this run; a choice other than the plan's is an event with its reasons."""
    choice = find_attention(plan.attention, shape, device=device, precision=plan.precision)
    if choice.rejected:
        recorder.event(
            f"Attention runs by {NAMES[choice.attention]}, not as planned: {'; '.join(choice.rejected)}.",
            level="warn",
            planned=plan.attention,
            attention=choice.attention,
        )
    return choice.attention


def find_attention(planned: Attention, shape: ModelShape, *, device: torch.device, precision: str) -> Choice:
    """The planned kernel, else the fastest other one that works here."""
    on_gpu = device.type == "cuda"
    capability = torch.cuda.get_device_capability(device) if on_gpu else None
    rejected: list[str] = []
    for attention in dict.fromkeys((planned, *ladder(on_gpu=on_gpu))):
        problem = _problem(attention, shape, device=device, precision=precision, capability=capability)
        if problem is None:
            return Choice(attention, tuple(rejected))
        rejected.append(f"{NAMES[attention]} {problem}")
    raise AssertionError("the last of each ladder runs everywhere")


def _problem(
    attention: Attention, shape: ModelShape, *, device: torch.device, precision: str, capability: Capability | None
) -> str | None:
    problem = obstacle(attention, capability=capability, installed=_installed(), precision=precision, shape=shape)
    if problem is not None or attention == "sdpa":  # what the others are compared with
        return problem
    try:
        difference = max(
            _difference(attention, window, shape=shape, dtype=DTYPES[precision], device=device)
            for window in TRIAL_WINDOWS
        )
    except Exception as error:  # whatever a library raises, there is a next one
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return f"failed its trial here ({type(error).__name__}: {_first_line(error)})"
    return None if difference <= TOLERANCE else f"gave other numbers than PyTorch's in its trial (by {difference:.0%})"


def _difference(
    attention: Attention, window: int | None, *, shape: ModelShape, dtype: torch.dtype, device: torch.device
) -> float:
    """Largest difference from `sdpa` over outputs and gradients, relative to the largest value; infinity for NaN."""
    generator = torch.Generator().manual_seed(0)  # of its own: the run's random numbers must not depend on this
    head_size = shape.query_size // shape.heads
    sizes = [
        (sum(TRIAL_LENGTHS), number, head_size)
        for number in (shape.heads, shape.key_value_size // head_size, shape.key_value_size // head_size, shape.heads)
    ]
    *inputs, upstream = (torch.randn(size, generator=generator).to(device, dtype) for size in sizes)
    sinks = torch.randn(shape.heads, generator=generator).to(device, dtype) if shape.attention_sinks else None
    scores = Scores(scale=head_size**-0.5, window=window, softcap=shape.score_softcap, sinks=sinks)
    segments = Segments.of(TRIAL_LENGTHS, device=device)
    wanted, got = (
        _outputs_and_gradients(inputs, upstream, segments=segments.through(kernel), scores=scores)
        for kernel in ("sdpa", attention)
    )
    worst = torch.stack(
        [(one.float() - other.float()).abs().max() / other.abs().max() for one, other in zip(got, wanted, strict=True)]
    ).max()
    return float(worst.nan_to_num(nan=float("inf")))


def _outputs_and_gradients(
    inputs: list[torch.Tensor], upstream: torch.Tensor, *, segments: Segments, scores: Scores
) -> tuple[torch.Tensor, ...]:
    leaves = [states.detach().requires_grad_() for states in inputs]
    output = segment_attention(*leaves, segments=segments, scores=scores)
    return (output.detach(), *torch.autograd.grad(output, leaves, upstream))


def _installed() -> Collection[str]:
    packages = set(NEEDED_PACKAGES.values())
    return {package for package in packages if _is_importable(MODULES.get(package, package))}


def _is_importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it would be a part of
        return False


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
