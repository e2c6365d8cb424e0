"""AdamW over fp32 masters: bf16 weights alone would lose every update below a thousandth of their size.

A parameter that is fp32 already is its own master. For the others a hook adds each gradient to the master's fp32
gradient as soon as it is complete and frees it, so gradients of many micro-steps add up in fp32 and the 16-bit ones
never exist all at once.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from tunesmith.tuning.engine import GRADIENT_BUCKET_BYTES
from tunesmith.tuning.plan import Plan
from tunesmith.worker.train.optim.buckets import GradientBuckets

TENSORS, SCALARS = "optimizer.safetensors", "optimizer.json"
BETAS, EPSILON = (0.9, 0.999), 1e-8


class MasterOptimizer:
    """Owns the masters, their gradients and the optimizer state of one model's trainable parameters."""

    def __init__(self, trainable: Iterable[tuple[str, nn.Parameter]], *, plan: Plan, processes: int = 1) -> None:
        # Processes meet once a step, whatever number of passes each of them runs, unless weights move in each pass.
        self.lockstep = plan.sharded_base
        self.masters: dict[str, nn.Parameter] = {}
        self._mirrors: list[tuple[nn.Parameter, nn.Parameter]] = []
        learning = dict(trainable)
        for name, parameter in learning.items():
            self.masters[name] = self._master_of(parameter)
        self._buckets = None
        if processes > 1:
            pairs = list(zip(learning.values(), self.masters.values(), strict=True))
            self._buckets = GradientBuckets(pairs, bucket_bytes=GRADIENT_BUCKET_BYTES)
        self._optimizer = build_adamw(self.masters.values(), plan=plan)

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Add the gradient of one pass; during the `last` of a step the sum over processes begins."""
        if last and self._buckets is not None:
            self._buckets.begin()
        loss.backward()

    def gradients(self) -> list[torch.Tensor]:
        """The fp32 gradients that exist, in a fixed order."""
        return [master.grad for master in self.masters.values() if master.grad is not None]

    def clip(self, max_norm: float) -> torch.Tensor:
        """Scale the gradients down to a common norm of `max_norm` (0: never); returns the norm before, fp32 scalar."""
        norm = torch.nn.utils.get_total_norm(self.gradients(), foreach=False)
        if max_norm:
            torch.nn.utils.clip_grads_with_norm_(self.masters.values(), max_norm, norm)
        return norm

    def sum_over_processes(self) -> None:
        """Have the gradients of all processes added up. Call it once a step in each, also where no pass was run."""
        if self._buckets is not None:
            self._buckets.finish()

    def step(self, *, learning_rate: float) -> None:
        """One update, copied to the mirrors; gradients are cleared."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self.refresh_mirrors()
        self.clear()

    def clear(self) -> None:
        """Drop all gradients, also a half-finished step's."""
        for parameter, _ in self._mirrors:
            parameter.grad = None
        if self._buckets is not None:
            self._buckets.clear()
            return
        for master in self.masters.values():
            master.grad = None

    @torch.no_grad()
    def refresh_mirrors(self) -> None:
        """Round the masters into the model."""
        for parameter, master in self._mirrors:
            parameter.copy_(master)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Optimizer state tensors by `<index>.<field>`, not copied."""
        return {
            f"{index}.{field}": value
            for index, master in enumerate(self.masters.values())
            for field, value in self._optimizer.state[master].items()
            if isinstance(value, torch.Tensor)
        }

    def elements_without_moments(self) -> int:
        """How many elements the first step will make moments for."""
        return 0 if self.tensors() else sum(master.numel() for master in self.masters.values())

    def scalars(self) -> dict[str, Any]:
        """Optimizer state that is not a tensor, by the same names."""
        return {
            f"{index}.{field}": value
            for index, master in enumerate(self.masters.values())
            for field, value in self._optimizer.state[master].items()
            if not isinstance(value, torch.Tensor)
        }

    def load(self, folder: Path) -> None:
        """Restore `tensors` and `scalars`; the masters' values are the caller's to restore first."""
        values: dict[str, Any] = dict(load_file(folder / TENSORS))
        values.update(json.loads((folder / SCALARS).read_text(encoding="utf-8")))
        masters = list(self.masters.values())
        for key, value in values.items():
            index, field = key.split(".", 1)
            master = masters[int(index)]
            kept = value.to(master.device) if isinstance(value, torch.Tensor) else value
            self._optimizer.state[master][field] = kept
        self.refresh_mirrors()

    def _master_of(self, parameter: nn.Parameter) -> nn.Parameter:
        if parameter.dtype == torch.float32:
            return parameter
        master = nn.Parameter(parameter.detach().float())
        self._mirrors.append((parameter, master))
        parameter.register_post_accumulate_grad_hook(lambda done: _move_gradient(done, master))
        return master


def build_adamw(parameters: Iterable[nn.Parameter], *, plan: Plan) -> torch.optim.Optimizer:
    """The plan's optimizer; what has one dimension (norms, biases) does not decay."""
    groups: dict[float, list[nn.Parameter]] = {plan.weight_decay: [], 0.0: []}
    for parameter in parameters:
        is_matrix = len(getattr(parameter, "ds_shape", parameter.shape)) >= 2  # ds_shape: whole, where it is shared out
        groups[plan.weight_decay if is_matrix else 0.0].append(parameter)
    return _adamw(
        [{"params": members, "weight_decay": decay} for decay, members in groups.items() if members], plan=plan
    )


def _move_gradient(parameter: torch.Tensor, master: nn.Parameter) -> None:
    if parameter.grad is None:
        return
    if master.grad is None:
        master.grad = parameter.grad.float()
    else:
        master.grad.add_(parameter.grad)
    parameter.grad = None


def _adamw(groups: list[dict[str, Any]], *, plan: Plan) -> torch.optim.Optimizer:
    if plan.optimizer == "adamw_8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(groups, lr=plan.learning_rate, betas=BETAS, eps=EPSILON)
    return torch.optim.AdamW(groups, lr=plan.learning_rate, betas=BETAS, eps=EPSILON, fused=True)
