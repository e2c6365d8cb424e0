"""A frozen matrix in 8 bits, multiplied in 8 bits where the GPU can: forward and for the gradient of its input.

Each row of a matrix is scaled so that its largest entry is the largest number of E4M3, and each row of what it is
multiplied with in turn (dynamic, one scale a token). Rows are scaled and not the whole because one outlier would take
precision from all others; E4M3 serves gradients too, because a scale for every token leaves them no need of the range
that E5M2 has (Micikevicius et al., FP8 Formats for Deep Learning, arXiv 2209.05433; row-wise scales as in torchao's
float8 training recipe). The product sums in fp32 and gives the compute dtype. Adapters stay outside of it.
"""

from dataclasses import dataclass

import torch

FORMAT = torch.float8_e4m3fn
LARGEST = 448.0  # of E4M3
SMALLEST_SCALE = 1e-12
SLICE_ROWS = 1024
MULTIPLE = 16  # sizes that the tensor cores' kernels take


@dataclass(frozen=True)
class Float8Weight:
    """data: float8 [out, in]; scale: fp32 [out, 1], what a row was divided by."""

    data: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def of(cls, weight: torch.Tensor) -> "Float8Weight":
        """From a weight [out, in]."""
        return cls(*quantize(weight))

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight as the products see it: [out, in]."""
        return (self.data.float() * self.scale).to(dtype)

    def product(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """x W' + b for x [tokens, in]."""
        narrow, scale = quantize(x)
        return multiply(narrow, self.data, scale, self.scale, bias=bias, dtype=x.dtype)

    def input_gradient(self, grad: torch.Tensor) -> torch.Tensor:
        """grad W for grad [tokens, out]. A row's scale belongs to the dimension that is summed over: it joins grad."""
        narrow, scale = quantize(grad, factor=self.scale.T)
        ones = torch.ones(self.data.shape[1], 1, device=grad.device)
        return multiply(narrow, self.data.T.contiguous(), scale, ones, bias=None, dtype=grad.dtype)


def quantize(values: torch.Tensor, *, factor: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """(float8 [rows, columns], fp32 [rows, 1] that each row was divided by), of values times `factor` [1, columns].

    In slices of rows, so that no fp32 copy of the whole ever exists.
    """
    narrow = torch.empty(values.shape, dtype=FORMAT, device=values.device)
    scale = torch.empty(len(values), 1, dtype=torch.float32, device=values.device)
    for start in range(0, len(values), SLICE_ROWS):
        rows = slice(start, start + SLICE_ROWS)
        wide = values[rows].float() if factor is None else values[rows] * factor
        torch.div(wide.abs().amax(dim=1, keepdim=True), LARGEST, out=scale[rows]).clamp_(min=SMALLEST_SCALE)
        narrow[rows] = (wide / scale[rows]).clamp_(-LARGEST, LARGEST).to(FORMAT)
    return narrow, scale


def multiply(
    left: torch.Tensor,
    right: torch.Tensor,
    left_scale: torch.Tensor,
    right_scale: torch.Tensor,
    *,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """(left * left_scale) (right * right_scale)' + bias; left [tokens, inner], right [columns, inner], both float8.

    Without a GPU the same numbers are multiplied in fp32: a definition to test by, not a way to be fast.
    """
    if left.is_cuda:
        product: torch.Tensor = torch._scaled_mm(  # noqa: SLF001 - the one entry that PyTorch 2.11 to 2.13 share
            left, right.T, scale_a=left_scale, scale_b=right_scale.T.contiguous(), out_dtype=torch.bfloat16
        )
        product = product.to(dtype)
    else:
        product = ((left.float() @ right.float().T) * left_scale * right_scale.T).to(dtype)
    return product if bias is None else product.add_(bias)


def obstacle(*, in_features: int, out_features: int) -> str | None:
    """Why a matrix of this size stays as it is; None if it need not."""
    if in_features % MULTIPLE or out_features % MULTIPLE:
        return f"sizes must be multiples of {MULTIPLE}"
    return None
