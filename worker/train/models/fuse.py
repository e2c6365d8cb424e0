"""Where the fused blocks go: which modules of a model can take them, and why others keep their own passes."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from worker.train.kernels.attention import segment_attention
from worker.train.kernels.lora_passes import Site, gated_mlp, project, rms_norm, rotate
from worker.train.kernels.segments import Scores
from worker.train.models.adapter import ADAPTER

# Attention modules whose forward is: project, perhaps normalise each head, rotate by halves, attend, project.
ATTENTION = {"LlamaAttention", "MistralAttention", "Qwen2Attention", "Qwen3Attention", "GraniteAttention"}
MLP = {"LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP", "GraniteMLP", "SmolLM3MLP", "Olmo2MLP"}
SILU = {"SiLU", "SiLUActivation"}
NORM = {"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "GraniteRMSNorm", "SmolLM3RMSNorm"}


def fuse(model: nn.Module) -> dict[str, int]:
    """Replace the forward pass of every module that qualifies; returns how many of each kind there were.

    A block qualifies when its base is frozen and its adapters are plain LoRA without dropout. DoRA, dropout and unknown
    architectures keep the passes of their libraries: slower, equally right.
    """
    done: Counter[str] = Counter()
    for module in model.modules():
        kind = type(module).__name__
        if kind in NORM and not module.weight.requires_grad:
            _replace(module, _norm_forward(module))
            done["norms"] += 1
        elif (
            kind in MLP
            and type(module.act_fn).__name__ in SILU
            and (sites := _sites(module, "gate_proj up_proj down_proj"))
        ):
            _replace(module, _mlp_forward(sites))
            done["mlps"] += 1
        elif kind in ATTENTION and (sites := _sites(module, "q_proj k_proj v_proj o_proj")):
            _replace(module, _attention_forward(module, sites))
            done["attentions"] += 1
    return dict(done)


def describe(done: dict[str, int]) -> str:
    """What `fuse` did, for a person."""
    listed = ", ".join(f"{count} {kind}" for kind, count in done.items())
    return (
        f"Fused passes for {listed}." if listed else "No fused passes: this model or adapter keeps its libraries' own."
    )


def _replace(module: nn.Module, forward: Callable[..., Any]) -> None:
    module.forward = forward


def _norm_forward(module: Any) -> Callable[..., Any]:
    def forward(states: torch.Tensor) -> torch.Tensor:
        return rms_norm(states, module.weight, module.variance_epsilon)

    return forward


def _mlp_forward(sites: list[Site]) -> Callable[..., Any]:
    def forward(states: torch.Tensor) -> torch.Tensor:
        return gated_mlp(states.reshape(-1, states.shape[-1]), sites).view(states.shape)

    return forward


def _attention_forward(module: Any, sites: list[Site]) -> Callable[..., Any]:
    plain = module.forward
    query_norm, key_norm = getattr(module, "q_norm", None), getattr(module, "k_norm", None)
    scores = Scores(
        scale=module.scaling, window=_window(module), softcap=getattr(module, "attn_logit_softcapping", None)
    )

    def forward(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        segments = kwargs.get("segments")
        if segments is None:  # generation, which packs nothing
            result: tuple[torch.Tensor, None] = plain(hidden_states, *args, **kwargs)
            return result
        cosine, sine = (table[0] for table in kwargs["position_embeddings"])
        states = hidden_states[0]
        query, key, value = (part.view(len(states), -1, module.head_dim) for part in project(states, sites[:3]))
        query = rotate(query if query_norm is None else query_norm(query), cosine, sine)
        key = rotate(key if key_norm is None else key_norm(key), cosine, sine)
        attended = segment_attention(query, key, value, segments=segments, scores=scores)
        (output,) = project(attended.reshape(len(states), -1), sites[3:])
        return output[None], None

    return forward


def _window(module: Any) -> int | None:
    """Mistral keeps its window in the config, the Qwens in those of their layers that have one."""
    if type(module).__name__ == "MistralAttention":
        return getattr(module.config, "sliding_window", None)
    return getattr(module, "sliding_window", None)


def _sites(module: nn.Module, names: str) -> list[Site] | None:
    sites = [_site(getattr(module, name)) for name in names.split()]
    return None if any(site is None for site in sites) else [site for site in sites if site is not None]


def _site(module: Any) -> Site | None:
    """None where the fused passes would not compute the same."""
    if not hasattr(module, "lora_A"):
        return None if module.weight.requires_grad else Site(module, None, None, 0.0)
    plain = (
        list(module.lora_A) == [ADAPTER]
        and isinstance(module.lora_dropout[ADAPTER], nn.Identity)
        and not getattr(module, "lora_variant", {})
        and not module.merged
        and not module.lora_bias[ADAPTER]
    )
    if not plain or getattr(module.base_layer, "fan_in_fan_out", False):
        return None
    down, up = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
    return Site(module.base_layer, down, up, float(module.scaling[ADAPTER]))
