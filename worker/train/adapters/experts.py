"""The experts of a mixture in a model of transformers 5: which modules hold them, and our pass in their place.

A layer's experts are one module with two bare parameters [experts, ..., ...]. Those whose class lets transformers
choose how they are multiplied (`use_experts_implementation`) say how they are laid out, and qualify.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from tunesmith.worker.train.kernels.expert_pass import Experts, ExpertSite, experts_output

MATRICES = ("gate_up_proj", "down_proj")
_WRAPPER = "ParamWrapper"  # PEFT's module around one bare parameter; two of them lie around each other


def expert_parameters(model: nn.Module) -> Iterator[str]:
    """Full names of the bare parameters that an adapter can go on."""
    for name, module in model.named_modules():
        if are_experts(module):
            yield from (f"{name}.{matrix}" for matrix in MATRICES)


def are_experts(module: Any) -> bool:
    """Whether a module is the gated experts of one layer, multiplied as transformers' own grouped product does it."""
    matrices = [module.__dict__.get("_parameters", {}).get(name) for name in MATRICES]
    chosen_by_library = hasattr(type(module).forward, "__wrapped__") and getattr(module, "has_gate", False)
    return bool(
        chosen_by_library
        and all(matrix is not None and getattr(matrix, "ds_shape", matrix.shape)[2:] for matrix in matrices)
        and not getattr(module, "has_post_expert_norm", False)
        and not getattr(module, "_is_expert_parallel", False)
    )


def adapted_experts(model: nn.Module) -> set[nn.Module]:
    """Those that PEFT has put adapters around."""
    wrappers: list[Any] = [module for module in model.modules() if type(module).__name__ == _WRAPPER]
    return {wrapper.get_base_layer() for wrapper in wrappers}


def experts_forward(module: Any) -> Callable[..., torch.Tensor] | None:
    """Our pass over a layer's frozen experts, with the adapters that PEFT has put around them; None for all else."""
    wrappers = dict(_wrappers(module))
    experts = module.get_base_layer() if wrappers else module
    if not are_experts(experts) or any(getattr(experts, name).requires_grad for name in MATRICES):
        return None
    if wrappers and (set(wrappers) != set(MATRICES) or not all(map(_is_plain, wrappers.values()))):
        return None
    wide, last = (_site(experts, name, wrappers.get(name)) for name in MATRICES)
    layer = Experts(wide, last, experts._apply_gate)  # noqa: SLF001 - what transformers' own functions call

    def forward(hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> torch.Tensor:
        return experts_output(hidden_states, top_k_index, top_k_weights, layer)

    return forward


def _wrappers(module: Any) -> Iterator[tuple[str, Any]]:
    """PEFT's modules around a layer's experts, by the parameter that each adapts."""
    while type(module).__name__ == _WRAPPER:
        yield module.parameter_name, module
        module = module.base_layer


def _is_plain(wrapper: Any) -> bool:
    return len(wrapper.lora_A) == 1 and not wrapper.merged


def _site(experts: Any, name: str, wrapper: Any) -> ExpertSite:
    bias = getattr(experts, f"{name}_bias") if experts.has_bias else None
    site = ExpertSite(getattr(experts, name), bias, transposed=experts.is_transposed)
    if wrapper is None:
        return site
    (adapter,) = wrapper.lora_A
    down, up = wrapper.lora_A[adapter].weight, wrapper.lora_B[adapter].weight
    return replace(site, down=down, up=up, scale=float(wrapper.scaling[adapter]))
