"""The operations of `worker.train.kernels.elementwise` as one Triton kernel each: every tensor crosses memory once.

Sums and products are in fp32; what is stored is rounded where the plain version rounds, so both agree to the last bits
of the dtype. Rows (tokens) may stand apart in memory, their elements may not. Nothing here waits for the device.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from tunesmith.worker.train.kernels.elementwise import Activation

ACTIVATIONS: dict[Activation, int] = {"silu": 0, "gelu_tanh": 1, "gelu": 2, "relu": 3}
TILE = 4096  # elements of a program: rows shorter than it share one
GATE_BLOCK, VOCABULARY_BLOCK = 1024, 4096
BACKWARD_PROGRAMS = 512  # each adds up its own rows of a weight's gradient


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, epsilon: float, *, offset: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `elementwise.rms_norm`."""
    _, output, inverse = _norm(x, None, weight, epsilon, offset=offset)
    return output, inverse


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float, *, offset: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `elementwise.add_rms_norm`."""
    return _norm(x, residual, weight, epsilon, offset=offset)


def rms_norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    inverse: torch.Tensor,
    *,
    offset: bool,
    residual: torch.Tensor | None,
    wants_weight: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """As `elementwise.rms_norm_backward`."""
    size = x.shape[-1]
    grads, states = _rows(grad, size), _rows(x, size)
    added = grads if residual is None else _rows(residual, size)
    block, rows_each = _tile(size)
    programs = min(triton.cdiv(len(states), rows_each), BACKWARD_PROGRAMS)
    grad_x = torch.empty_like(states)
    sums = torch.empty(programs if wants_weight else 1, size, dtype=torch.float32, device=x.device)
    _norm_backward_kernel[(programs,)](
        grads, states, weight, inverse, added, grad_x, sums, len(states), size, programs,
        HAS_OFFSET=offset, HAS_RESIDUAL=residual is not None, WANTS_WEIGHT=wants_weight,
        BLOCK=block, ROWS=rows_each, num_warps=_warps(block * rows_each),
    )  # fmt: skip
    return grad_x.view(x.shape), sums.sum(dim=0).to(weight.dtype) if wants_weight else None


def gate(gated: torch.Tensor, other_half: torch.Tensor, activation: Activation) -> torch.Tensor:
    """As `elementwise.gate`."""
    size = gated.shape[-1]
    first, second = (half.reshape(-1, size) for half in (gated, other_half))
    output = torch.empty(first.shape, dtype=gated.dtype, device=gated.device)
    _gate_kernel[len(first), triton.cdiv(size, GATE_BLOCK)](
        first, second, output, first.stride(0), second.stride(0), size,
        ACTIVATION=ACTIVATIONS[activation], BLOCK=GATE_BLOCK,
    )  # fmt: skip
    return output.view(gated.shape)


def gate_backward(
    grad: torch.Tensor, gated: torch.Tensor, other_half: torch.Tensor, activation: Activation, *, uses_up: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `elementwise.gate_backward`; used up, the gradient of the other half takes the place of `grad`."""
    size = gated.shape[-1]
    grads = grad.reshape(-1, size).contiguous()
    first, second = (half.reshape(-1, size) for half in (gated, other_half))
    grad_gated, grad_other = torch.empty_like(grads), grads if uses_up else torch.empty_like(grads)
    _gate_backward_kernel[len(first), triton.cdiv(size, GATE_BLOCK)](
        grads, first, second, grad_gated, grad_other, first.stride(0), second.stride(0), size,
        ACTIVATION=ACTIVATIONS[activation], BLOCK=GATE_BLOCK,
    )  # fmt: skip
    return grad_gated.view(gated.shape), grad_other.view(gated.shape)


def rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, *, direction: float) -> torch.Tensor:
    """As `elementwise.rotate`."""
    tokens, heads, size = x.shape
    states = x if x.stride(2) == 1 else x.contiguous()
    output = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    rotated = cosine.shape[-1]
    _rotate_kernel[(tokens,)](
        states, cosine.contiguous(), sine.contiguous(), output, states.stride(0), states.stride(1), heads, size,
        rotated, direction, HEADS=triton.next_power_of_2(heads), HALF=triton.next_power_of_2(rotated // 2),
        REST=triton.next_power_of_2(max(1, size - rotated)), HAS_REST=size > rotated,
    )  # fmt: skip
    return output


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, *, softcap: float | None, wants_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `elementwise.cross_entropy`: the largest, the sum and the hit in one reading, the gradient in a second."""
    tokens, vocabulary = logits.shape
    losses = torch.empty(tokens, dtype=torch.float32, device=logits.device)
    hits = torch.empty(tokens, dtype=torch.int32, device=logits.device)
    block = min(VOCABULARY_BLOCK, triton.next_power_of_2(vocabulary))
    _cross_entropy_kernel[(tokens,)](
        logits, labels, losses, hits, logits.stride(0), vocabulary, softcap or 1.0,
        HAS_CAP=bool(softcap), WANTS_GRADIENT=wants_gradient, BLOCK=block, num_warps=_warps(block),
    )  # fmt: skip
    return losses.sum(), hits.sum()


def _norm(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, epsilon: float, *, offset: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    size = x.shape[-1]
    states = _rows(x, size)
    before = states if residual is None else _rows(residual, size)
    block, rows_each = _tile(size)
    output, added = torch.empty_like(states), states if residual is None else torch.empty_like(states)
    inverse = torch.empty(len(states), dtype=torch.float32, device=x.device)
    _norm_kernel[(triton.cdiv(len(states), rows_each),)](
        states, before, weight, added, output, inverse, len(states), size, epsilon,
        HAS_OFFSET=offset, HAS_RESIDUAL=residual is not None,
        BLOCK=block, ROWS=rows_each, num_warps=_warps(block * rows_each),
    )  # fmt: skip
    return added.view(x.shape), output.view(x.shape), inverse.view(*x.shape[:-1], 1)


def _rows(states: torch.Tensor, size: int) -> torch.Tensor:
    return states.reshape(-1, size).contiguous()


def _tile(size: int) -> tuple[int, int]:
    """(columns, rows) of one program; its columns hold a whole row."""
    block = triton.next_power_of_2(size)
    return block, max(1, TILE // block)


def _warps(elements: int) -> int:
    return max(1, min(16, elements // 512))


@triton.jit
def _norm_kernel(
    x, residual, weight, added, output, inverse, rows, size, epsilon,
    HAS_OFFSET: tl.constexpr, HAS_RESIDUAL: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    here = (row < rows)[:, None] & (column < size)[None, :]
    place = row[:, None] * size + column[None, :]
    wide = tl.load(x + place, mask=here, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        narrow = (wide + tl.load(residual + place, mask=here, other=0.0).to(tl.float32)).to(x.dtype.element_ty)
        tl.store(added + place, narrow, mask=here)
        wide = narrow.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(wide * wide, axis=1) / size + epsilon)
    tl.store(inverse + row, scale, mask=row < rows)
    normal = wide * scale[:, None]
    factor = tl.load(weight + column, mask=column < size, other=0.0).to(tl.float32)[None, :]
    if HAS_OFFSET:
        normal = normal * (1.0 + factor)
    else:
        normal = normal.to(x.dtype.element_ty).to(tl.float32) * factor  # rounded before, as the plain version does
    tl.store(output + place, normal.to(x.dtype.element_ty), mask=here)


@triton.jit
def _norm_backward_kernel(
    grad, x, weight, inverse, residual, grad_x, sums, rows, size, programs,
    HAS_OFFSET: tl.constexpr, HAS_RESIDUAL: tl.constexpr, WANTS_WEIGHT: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    factor = tl.load(weight + column, mask=column < size, other=0.0).to(tl.float32)[None, :]
    if HAS_OFFSET:
        factor = 1.0 + factor
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for first in range(program * ROWS, rows, programs * ROWS):
        row = first + tl.arange(0, ROWS)
        here = (row < rows)[:, None] & (column < size)[None, :]
        place = row[:, None] * size + column[None, :]
        upstream = tl.load(grad + place, mask=here, other=0.0).to(tl.float32)
        scale = tl.load(inverse + row, mask=row < rows, other=0.0)[:, None]
        normal = tl.load(x + place, mask=here, other=0.0).to(tl.float32) * scale
        if WANTS_WEIGHT:
            total += tl.sum(upstream * normal, axis=0)
        weighted = upstream * factor
        shared = tl.sum(weighted * normal, axis=1)[:, None] / size
        found = (weighted - normal * shared) * scale
        if HAS_RESIDUAL:
            found += tl.load(residual + place, mask=here, other=0.0).to(tl.float32)
        tl.store(grad_x + place, found.to(grad_x.dtype.element_ty), mask=here)
    if WANTS_WEIGHT:
        tl.store(sums + program * size + column, total, mask=column < size)


@triton.jit
def _activated(x, ACTIVATION: tl.constexpr):
    """(activation(x), activation'(x)) in fp32."""
    if ACTIVATION == 0:
        share = 1.0 / (1.0 + tl.exp(-x))
        return x * share, share * (1.0 + x * (1.0 - share))
    if ACTIVATION == 1:
        inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        bent = 2.0 / (1.0 + tl.exp(-2.0 * inner)) - 1.0
        slope = 0.7978845608028654 * (1.0 + 3.0 * 0.044715 * x * x)
        return 0.5 * x * (1.0 + bent), 0.5 * (1.0 + bent) + 0.5 * x * (1.0 - bent * bent) * slope
    if ACTIVATION == 2:
        share = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
        return x * share, share + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)
    return tl.maximum(x, 0.0), tl.where(x > 0.0, 1.0, 0.0)


@triton.jit
def _gate_kernel(
    gated, other_half, output, gated_stride, other_stride, size, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = column < size
    active, _ = _activated(
        tl.load(gated + row * gated_stride + column, mask=here, other=0.0).to(tl.float32), ACTIVATION
    )
    rounded = active.to(gated.dtype.element_ty).to(tl.float32)
    other = tl.load(other_half + row * other_stride + column, mask=here, other=0.0).to(tl.float32)
    tl.store(output + row * size + column, (rounded * other).to(gated.dtype.element_ty), mask=here)


@triton.jit
def _gate_backward_kernel(
    grad, gated, other_half, grad_gated, grad_other, gated_stride, other_stride, size,
    ACTIVATION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = column < size
    place = row * size + column
    upstream = tl.load(grad + place, mask=here, other=0.0).to(tl.float32)
    x = tl.load(gated + row * gated_stride + column, mask=here, other=0.0).to(tl.float32)
    other = tl.load(other_half + row * other_stride + column, mask=here, other=0.0).to(tl.float32)
    active, slope = _activated(x, ACTIVATION)
    tl.store(grad_gated + place, (upstream * other * slope).to(grad_gated.dtype.element_ty), mask=here)
    tl.store(grad_other + place, (upstream * active).to(grad_other.dtype.element_ty), mask=here)


@triton.jit
def _rotate_kernel(
    x, cosine, sine, output, token_stride, head_stride, heads, size, rotated, direction,
    HEADS: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr, HAS_REST: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS)[:, None]
    half = rotated // 2
    column = tl.arange(0, HALF)[None, :]
    turning, here = column < half, (head < heads) & (column < half)
    angles = token * rotated + column
    first_cosine = tl.load(cosine + angles, mask=turning, other=0.0).to(tl.float32)
    last_cosine = tl.load(cosine + angles + half, mask=turning, other=0.0).to(tl.float32)
    first_sine = tl.load(sine + angles, mask=turning, other=0.0).to(tl.float32) * direction
    last_sine = tl.load(sine + angles + half, mask=turning, other=0.0).to(tl.float32) * direction
    source = x + token * token_stride + head * head_stride
    target = output + (token * heads + head) * size
    first = tl.load(source + column, mask=here, other=0.0).to(tl.float32)
    last = tl.load(source + column + half, mask=here, other=0.0).to(tl.float32)
    tl.store(target + column, (first * first_cosine - last * first_sine).to(x.dtype.element_ty), mask=here)
    tl.store(target + column + half, (last * last_cosine + first * last_sine).to(x.dtype.element_ty), mask=here)
    if HAS_REST:
        beyond = rotated + tl.arange(0, REST)[None, :]
        left = (head < heads) & (beyond < size)
        tl.store(target + beyond, tl.load(source + beyond, mask=left, other=0.0), mask=left)


@triton.jit
def _capped(x, softcap, HAS_CAP: tl.constexpr):
    """(capped x, slope of the cap)."""
    if HAS_CAP:
        bent = 2.0 / (1.0 + tl.exp(-2.0 * x / softcap)) - 1.0
        return softcap * bent, 1.0 - bent * bent
    return x, tl.full(x.shape, 1.0, tl.float32)


@triton.jit
def _cross_entropy_kernel(
    logits, labels, losses, hits, stride, vocabulary, softcap,
    HAS_CAP: tl.constexpr, WANTS_GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + token)
    row = logits + token * stride
    largest, total, best = float("-inf"), 0.0, 0
    for start in range(0, vocabulary, BLOCK):
        column = start + tl.arange(0, BLOCK)
        raw = tl.load(row + column, mask=column < vocabulary, other=0.0).to(tl.float32)
        capped, _ = _capped(raw, softcap, HAS_CAP)
        scores = tl.where(column < vocabulary, capped, float("-inf"))
        top, place = tl.max(scores, axis=0, return_indices=True)
        best = tl.where(top > largest, start + place, best)
        highest = tl.maximum(largest, top)
        total = total * tl.exp(largest - highest) + tl.sum(tl.exp(scores - highest), axis=0)
        largest = highest
    log_sum = largest + tl.log(total)
    wanted, _ = _capped(tl.load(row + label).to(tl.float32), softcap, HAS_CAP)
    tl.store(losses + token, log_sum - wanted)
    tl.store(hits + token, (best == label).to(tl.int32))
    if WANTS_GRADIENT:
        for start in range(0, vocabulary, BLOCK):
            column = start + tl.arange(0, BLOCK)
            here = column < vocabulary
            capped, slope = _capped(tl.load(row + column, mask=here, other=0.0).to(tl.float32), softcap, HAS_CAP)
            found = tl.exp(capped - log_sum) - tl.where(column == label, 1.0, 0.0)
            tl.store(row + column, (found * slope).to(logits.dtype.element_ty), mask=here)


def kernels() -> dict[str, Any]:
    """Every kernel by its name, for compiling without a GPU."""
    return {name.strip("_"): value for name, value in globals().items() if name.endswith("_kernel")}
