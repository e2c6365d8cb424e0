"""PiSSA (arXiv 2404.02948): adapters that start as a weight's principal components, over a base without them.

    W = U S V',  A0 = sqrt(S_r) V_r',  B0 = U_r sqrt(S_r) / scale,  base := W - scale B0 A0

The result is written as an ordinary adapter of the unchanged base: scale (B A - B0 A0) is one adapter of twice the
rank.
"""

import math
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from tunesmith.tuning.codes import ErrorCode
from tunesmith.worker.train.adapters.fuse import ADAPTER
from tunesmith.worker.train.adapters.twins import is_conv1d
from tunesmith.worker.train.failures import user_error

INITIAL_FILE = "initial.safetensors"
POWER_ITERATIONS = 16


@torch.no_grad()
def start_from_principal_components(model: PeftModel, *, resume_folder: Path | None) -> dict[str, torch.Tensor]:
    """Set every adapter and take it out of its base weight; returns the initial factors by their names in the file.

    A resumed run takes the factors of its checkpoint: another machine's decomposition may differ by a sign.

    Raises:
        JobFailure: `pissa_needs_plain_weights` for a quantised base.
    """
    stored = {} if resume_folder is None else load_file(resume_folder / INITIAL_FILE)
    initial: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if not hasattr(module, "lora_A") or ADAPTER not in module.lora_A:
            continue
        base = _out_by_in(module.base_layer)
        if not base.is_floating_point():
            raise user_error(
                ErrorCode.PISSA_NEEDS_PLAIN_WEIGHTS,
                "PiSSA takes components out of the base weights, which a 4-bit base does not allow.",
                hint="Use method lora, or leave the adapter's init at its default.",
                param="tunesmith.lora.init",
            )
        down, up = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
        keys = [f"{name}.lora_{side}.weight" for side in "AB"]
        scale = float(module.scaling[ADAPTER])
        factors = [stored[key] for key in keys] if stored else _principal(base, rank=down.shape[0], scale=scale)
        components = len(factors[0])  # fewer than the rank in a matrix that has no more; B is zero beyond them
        down[:components].copy_(factors[0])
        up[:, :components].copy_(factors[1])
        base.copy_(base.float() - scale * (up @ down))
        initial.update({key: value.clone().cpu() for key, value in zip(keys, (down, up), strict=True)})
    return initial


def as_plain_adapter(
    tensors: dict[str, torch.Tensor], initial: dict[str, torch.Tensor], config: dict[str, object]
) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """The change since the start as an adapter of twice the rank, with the config that goes with it."""
    plain = {}
    for name, value in tensors.items():
        if name.endswith("lora_A.weight"):
            plain[name] = torch.cat([value, initial[name]], dim=0)
        else:
            plain[name] = torch.cat([value, -initial[name]], dim=1)
    growth = math.sqrt(2) if config["use_rslora"] else 2.0  # keeps alpha / r, or alpha / sqrt(r), as it was
    rank, alpha = config["r"], config["lora_alpha"]
    assert isinstance(rank, int)  # noqa: S101 - for the type checker
    assert isinstance(alpha, (int, float))  # noqa: S101 - for the type checker
    return plain, {**config, "r": 2 * rank, "lora_alpha": alpha * growth, "init_lora_weights": True}


def _out_by_in(linear: nn.Module) -> torch.Tensor:
    """A view of the weight as [out, in]; Conv1D keeps it as [in, out]."""
    weight = cast("torch.Tensor", linear.weight)
    return weight.T if is_conv1d(linear) else weight


def _principal(weight: torch.Tensor, *, rank: int, scale: float) -> list[torch.Tensor]:
    u, s, v = torch.svd_lowrank(weight.float(), q=min(rank + 8, *weight.shape), niter=POWER_ITERATIONS)
    root = s[:rank].sqrt()
    return [root[:, None] * v[:, :rank].T, u[:, :rank] * root / scale]
