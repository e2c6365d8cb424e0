"""Our own forward and backward passes for adapted linears and for whole blocks of them.

The inside of an MLP keeps what its products gave instead of four tensors of its width; a linear with dropout keeps its
input and a mask, with DoRA its product. The idea is that of fused LoRA kernels; the maths is written out in PyTorch.
"""

from collections.abc import Sequence
from typing import Any

import torch

from tunesmith.worker.train.kernels import elementwise
from tunesmith.worker.train.kernels.elementwise import Activation
from tunesmith.worker.train.kernels.sites import Site, Tensors, all_factors, as_master, multiply, multiply_backward


def project(x: torch.Tensor, sites: Sequence[Site]) -> tuple[torch.Tensor, ...]:
    """Every plain site's product with x [tokens, in]."""
    outputs: tuple[torch.Tensor, ...] = _Projections.apply(x, sites, *all_factors(sites))
    return outputs


def adapted_linear(x: torch.Tensor, site: Site, *, training: bool) -> torch.Tensor:
    """One site's product with x [tokens, in], with its dropout while training and its magnitude."""
    if site.magnitude is None and (site.dropout is None or not training):
        return project(x, [site])[0]
    share = site.dropout.p if site.dropout is not None and training else 0.0
    output: torch.Tensor = _AdaptedLinear.apply(x, site, share, site.down, site.up, site.magnitude)
    return output


def mlp(x: torch.Tensor, sites: Sequence[Site], *, activation: Activation, recomputing: bool) -> torch.Tensor:
    """The last site's product with the gate over those before it, for x [tokens, hidden].

    Sites are gate, up and down; or one that gives gate and up side by side, and down; or, without a gate, up and down:
    told apart by the sizes. With `recomputing` the products before the last are made again in the backward pass.
    """
    output: torch.Tensor = _Mlp.apply(x, sites, activation, recomputing, *all_factors(sites))
    return output


class _Projections(torch.autograd.Function):
    """Several sites that read one input."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, sites: Sequence[Site], *_: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """The trailing arguments are the sites' adapters, named so that autograd sees them."""
        outputs, narrow, ctx.rounded = multiply(x, sites)
        ctx.save_for_backward(None if narrow is None else x, narrow)
        ctx.sites = sites
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Tensors:
        """One sum of input gradients, each adapter's two gradients."""
        x, narrow = ctx.saved_tensors
        grad_input, factors = multiply_backward(
            grads, x, narrow, ctx.rounded, sites=ctx.sites, wants_input=ctx.needs_input_grad[0]
        )
        return grad_input, None, *factors


class _AdaptedLinear(torch.autograd.Function):
    """A site with dropout, a magnitude, or both, as PEFT defines them: dropout is on what the adapter reads.

    With a magnitude: z = d W' + scale (d A') B' for the dropped d, and y = x W' + b - d W' + z m / |W + scale B A|. The
    lengths |W + scale B A| count as constants (DoRA, section 4.3).
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        x: torch.Tensor,
        site: Site,
        dropped_share: float,
        down: torch.Tensor,
        up: torch.Tensor,
        magnitude: torch.Tensor | None,
    ) -> torch.Tensor:
        """The adapters are named so that autograd sees them."""
        dropped, mask = torch.native_dropout(x, dropped_share, True) if dropped_share else (x, None)
        ctx.rounded = down.to(x.dtype), up.to(x.dtype)
        narrow = (dropped @ ctx.rounded[0].T).mul_(site.scale)
        output = site.product(x)
        turned = factor = None
        if magnitude is None:
            output.addmm_(narrow, ctx.rounded[1].T)
        else:
            lengths = site.row_lengths()
            factor = (magnitude / lengths).to(x.dtype)
            base = _without_bias(output, site) if mask is None else _without_bias(site.product(dropped), site)
            turned = torch.addmm(base, narrow, ctx.rounded[1].T)
            output += turned * factor - base
            ctx.lengths = lengths
        ctx.save_for_backward(x, mask, narrow, turned, factor)
        ctx.site, ctx.dropped_share = site, dropped_share
        return output

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Tensors:
        """As autograd would derive it, with the dropped input made again from the mask."""
        x, mask, narrow, turned, factor = ctx.saved_tensors
        site, (down, up) = ctx.site, ctx.rounded
        keeping = 1.0 / (1.0 - ctx.dropped_share)
        grad_turned = grad if factor is None else grad * factor
        grad_narrow = (grad_turned @ up).mul_(site.scale)
        dropped = x if mask is None else (x * mask).mul_(keeping)
        grad_down, grad_up = grad_narrow.T @ dropped, grad_turned.T @ narrow
        grad_magnitude = None
        if turned is not None:
            grad_magnitude = (grad * turned).float().sum(dim=0).div_(ctx.lengths)
        grad_input = None
        if ctx.needs_input_grad[0]:
            through_adapter = grad_narrow @ down
            if mask is None:
                grad_input = site.input_gradient(grad_turned, through_adapter)
            else:
                if turned is not None:
                    site.input_gradient(grad_turned - grad, through_adapter)
                grad_input = site.input_gradient(grad, through_adapter.mul_(mask).mul_(keeping))
        masters = (grad_down, site.down), (grad_up, site.up), (grad_magnitude, site.magnitude)
        return grad_input, None, None, *(as_master(*pair) for pair in masters)


class _Mlp(torch.autograd.Function):
    """Keeps x and what the wide products gave, or x alone."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        sites: Sequence[Site],
        activation: Activation,
        recomputing: bool,
        *_: torch.Tensor | None,
    ) -> torch.Tensor:
        """The trailing arguments are the sites' adapters, named so that autograd sees them."""
        wide, wide_narrow, ctx.wide = multiply(x, sites[:-1])
        (y,), narrow, ctx.down = multiply(_inner(wide, sites, activation), sites[-1:])
        needs_input = recomputing or wide_narrow is not None
        ctx.save_for_backward(x if needs_input else None, narrow, *(() if recomputing else (wide_narrow, *wide)))
        ctx.sites, ctx.activation = sites, activation
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Tensors:
        """What stands between the products is made again; with `recomputing` the wide products too, never the last."""
        x, narrow, *kept = ctx.saved_tensors
        sites, activation = ctx.sites, ctx.activation
        if kept:
            wide_narrow, *wide = kept
        else:
            wide, wide_narrow, _ = multiply(x, sites[:-1])
        inner = _inner(wide, sites, activation)
        grad_inner, down_factors = multiply_backward([grad], inner, narrow, ctx.down, sites=sites[-1:])
        del inner
        assert grad_inner is not None  # noqa: S101 - for the type checker
        grad_input, wide_factors = multiply_backward(
            _inner_backward(grad_inner, wide, sites, activation),
            x,
            wide_narrow,
            ctx.wide,
            sites=sites[:-1],
            wants_input=ctx.needs_input_grad[0],
        )
        return grad_input, None, None, None, *wide_factors, *down_factors


def _inner(wide: Sequence[torch.Tensor], sites: Sequence[Site], activation: Activation) -> torch.Tensor:
    halves = _halves(wide, sites)
    if len(halves) == 1:
        return elementwise.activate(halves[0], activation)
    return elementwise.gate(halves[0], halves[1], activation)


def _inner_backward(
    grad: torch.Tensor, wide: Sequence[torch.Tensor], sites: Sequence[Site], activation: Activation
) -> Sequence[torch.Tensor]:
    halves = _halves(wide, sites)
    if len(halves) == 1:
        return [elementwise.activate_backward(grad, halves[0], activation)]
    grads = elementwise.gate_backward(grad, halves[0], halves[1], activation, uses_up=True)
    return grads if len(wide) == 2 else [torch.cat(grads, dim=1)]


def _halves(wide: Sequence[torch.Tensor], sites: Sequence[Site]) -> Sequence[torch.Tensor]:
    """One tensor without a gate, else gate and up."""
    inner_size = _in_features(sites[-1])
    return wide[0].split(inner_size, dim=1) if len(wide) == 1 else wide


def _in_features(site: Site) -> int:
    found: int = site.base.nx if site.transposed else site.base.in_features  # type: ignore[assignment]
    return found


def _without_bias(output: torch.Tensor, site: Site) -> torch.Tensor:
    bias: torch.Tensor | None = site.base.bias  # type: ignore[assignment]
    return output.clone() if bias is None else output - bias
