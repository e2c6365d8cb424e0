"""The experts of one layer under adapters, forward and backward, without ever making W + scale B A.

PEFT's own way makes that sum for every expert of a layer, autograd keeps it until the backward pass, and the gradient
that it then computes is as large again. Here each expert's rows go through its frozen matrix and, thinly, through its
two factors; kept are the input, the wide product and two thin ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tunesmith.worker.train.kernels import grouped
from tunesmith.worker.train.kernels.grouped import Groups, padded_rank
from tunesmith.worker.train.kernels.sites import Tensors, as_master

Gate = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class ExpertSite:
    """y = x W_e' + b_e + scale (x A_e') B_e' for every expert e; without an adapter `down` and `up` are None.

    As PEFT lays them out: A [experts x rank, in], an expert's rows together, and B [out, rank x experts], an expert's
    columns apart.
    """

    weight: torch.Tensor  # [experts, out, in], or [experts, in, out] where it is transposed
    bias: torch.Tensor | None  # [experts, out]
    down: nn.Parameter | None = None
    up: nn.Parameter | None = None
    scale: float = 1.0
    transposed: bool = False

    @property
    def experts(self) -> int:
        """How many matrices there are."""
        return len(self.weight)

    @property
    def in_by_out(self) -> torch.Tensor:
        """A view [experts, in, out]."""
        return self.weight if self.transposed else self.weight.transpose(1, 2)

    def rounded(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """A [experts, rank, in] and B [experts, out, rank] in the compute dtype, the rank padded with zeros."""
        assert self.down is not None  # noqa: S101 - for the type checker
        assert self.up is not None  # noqa: S101
        down = self.down.detach().view(self.experts, -1, self.down.shape[1]).to(dtype)
        up = self.up.detach().view(len(self.up), -1, self.experts).permute(2, 0, 1).to(dtype).contiguous()
        more = padded_rank(down.shape[1], dtype) - down.shape[1]
        return (nn.functional.pad(down, (0, 0, 0, more)), nn.functional.pad(up, (0, more))) if more else (down, up)


@dataclass(frozen=True)
class Experts:
    """Gate and up in one matrix, what joins them, and the matrix that leads back."""

    wide: ExpertSite
    last: ExpertSite
    gate: Gate

    @property
    def factors(self) -> tuple[nn.Parameter | None, ...]:
        """What learns."""
        return self.wide.down, self.wide.up, self.last.down, self.last.up


def experts_output(x: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor, experts: Experts) -> torch.Tensor:
    """Sum over the `chosen` experts of each token [tokens, k], by their `shares` [tokens, k], for x [tokens, in]."""
    output: torch.Tensor = _Experts.apply(x, shares, chosen, experts, *experts.factors)
    return output


class _Experts(torch.autograd.Function):
    """Rows are pairs of a token and one of its experts, sorted by expert."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        shares: torch.Tensor,
        chosen: torch.Tensor,
        experts: Experts,
        *_: torch.Tensor | None,
    ) -> torch.Tensor:
        """The trailing arguments are the adapters, named so that autograd sees them."""
        numbers, order = chosen.reshape(-1).sort(stable=True)
        groups = Groups.of(numbers, count=experts.wide.experts, dtype=x.dtype)
        rows = x[order // chosen.shape[1]]
        wide, wide_narrow = _multiply(rows, experts.wide, groups, numbers)
        del rows
        output, narrow = _multiply(experts.gate(wide), experts.last, groups, numbers)
        ctx.save_for_backward(x if wide_narrow is not None else None, shares, chosen, order, wide, wide_narrow, narrow)
        ctx.experts, ctx.groups = experts, groups
        return _joined(output.mul_(shares.reshape(-1)[order][:, None]), order, like=chosen)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Tensors:
        """What the gate gave is made again, and rows are copied out of x again.

        A share's gradient is the product of dy with what the expert gave, W h, which is that of dy W with h.
        """
        x, shares, chosen, order, wide, wide_narrow, narrow = ctx.saved_tensors
        experts, groups = ctx.experts, ctx.groups
        token, share = order // chosen.shape[1], shares.reshape(-1)[order][:, None]
        grads = grad[token]
        with torch.enable_grad():
            leaf = wide.detach().requires_grad_()
            inner = experts.gate(leaf)
        thin = _thin_gradient(grads, experts.last, groups)
        grad_inner = _input_gradient(grads, thin, experts.last, groups)
        grad_shares = None
        if ctx.needs_input_grad[1]:
            given = (grad_inner * inner.detach()).sum(1, dtype=torch.float32)
            if experts.last.bias is not None:
                given += (grads * experts.last.bias[chosen.reshape(-1)[order]]).sum(1, dtype=torch.float32)
            grad_shares = torch.empty_like(given).index_copy_(0, order, given).view_as(shares).to(shares.dtype)
        grads.mul_(share)
        thin = None if thin is None else thin.mul_(share)
        last_factors = _factor_gradients(grads, inner.detach(), thin, narrow, site=experts.last, groups=groups)
        del grads
        (grad_wide,) = torch.autograd.grad(inner, leaf, grad_inner.mul_(share))
        del inner, leaf, grad_inner
        thin = _thin_gradient(grad_wide, experts.wide, groups)
        rows = None if x is None else x[token]
        wide_factors = _factor_gradients(grad_wide, rows, thin, wide_narrow, site=experts.wide, groups=groups)
        del rows
        grad_input = None
        if ctx.needs_input_grad[0]:
            grad_input = _joined(_input_gradient(grad_wide, thin, experts.wide, groups), order, like=chosen)
        return grad_input, grad_shares, None, None, *wide_factors, *last_factors


def _multiply(
    rows: torch.Tensor, site: ExpertSite, groups: Groups, numbers: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """y [rows, out] and scale x A' [rows, padded rank]; `numbers` says whose row each is."""
    output = grouped.product(rows, site.in_by_out.to(rows.dtype), groups)
    if site.bias is not None:
        output += site.bias[numbers]
    if site.down is None:
        return output, None
    down, up = site.rounded(rows.dtype)
    narrow = grouped.product(rows, down.transpose(1, 2), groups).mul_(site.scale)
    output += grouped.product(narrow, up.transpose(1, 2), groups)
    return output, narrow


def _thin_gradient(grads: torch.Tensor, site: ExpertSite, groups: Groups) -> torch.Tensor | None:
    """scale dy B [rows, padded rank], where there is an adapter."""
    if site.down is None:
        return None
    _, up = site.rounded(grads.dtype)
    return grouped.product(grads, up, groups).mul_(site.scale)


def _input_gradient(grads: torch.Tensor, thin: torch.Tensor | None, site: ExpertSite, groups: Groups) -> torch.Tensor:
    """dx [rows, in]."""
    found = grouped.product(grads, site.in_by_out.transpose(1, 2).to(grads.dtype), groups)
    if thin is not None:
        down, _ = site.rounded(grads.dtype)
        found += grouped.product(thin, down, groups)
    return found


def _factor_gradients(
    grads: torch.Tensor,
    rows: torch.Tensor | None,
    thin: torch.Tensor | None,
    narrow: torch.Tensor | None,
    *,
    site: ExpertSite,
    groups: Groups,
) -> Tensors:
    """dA and dB as PEFT lays the factors out."""
    if rows is None or thin is None or narrow is None or site.down is None or site.up is None:
        return None, None
    rank = site.down.shape[0] // site.experts
    down = grouped.outer(thin, rows, groups)[:, :rank].reshape(site.down.shape)
    up = grouped.outer(grads, narrow, groups)[:, :, :rank].permute(1, 2, 0).reshape(site.up.shape)
    return as_master(down, site.down), as_master(up, site.up)


def _joined(rows: torch.Tensor, order: torch.Tensor, *, like: torch.Tensor) -> torch.Tensor:
    """The rows of each token added up: [tokens, width]."""
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return rows[place].view(*like.shape, -1).sum(1)
