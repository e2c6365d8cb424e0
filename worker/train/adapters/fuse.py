"""Where our own passes go: which modules of a model can take them, and why others keep their own.

A module is replaced when a tiny twin of it computes what our pass computes (`worker.train.adapters.twins`), so families
that nobody has listed get them too. Every adapted linear that is frozen underneath gets one, with or without dropout
and DoRA; whole MLPs, attentions and layers where nothing but plain adapters is in the way.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tunesmith.worker.train.adapters.experts import adapted_experts, experts_forward
from tunesmith.worker.train.adapters.twins import (
    GATED,
    AttentionKind,
    MlpKind,
    attention_kind,
    epsilon_of,
    is_add_and_norm_layer,
    is_conv1d,
    mlp_kind,
    norm_kind,
)
from tunesmith.worker.train.attention.packed import segment_attention
from tunesmith.worker.train.kernels import norms
from tunesmith.worker.train.kernels.lora_passes import adapted_linear, mlp, project
from tunesmith.worker.train.kernels.sites import Site

Forward = Callable[..., Any]
ADAPTER = "default"  # PEFT's name for a model's only adapter


def fuse(model: nn.Module) -> dict[str, int]:
    """Replace the forward pass of every module that qualifies; returns how many of each kind there were."""
    done: Counter[str] = Counter()
    wrapped = adapted_experts(model)
    for module in model.modules():
        if module in wrapped:  # its adapters are outside of it
            continue
        for kind, make in _PASSES.items():
            forward = make(module)
            if forward is not None:
                module.forward = forward
                done[kind] += 1
                break
    return dict(done)


def describe(done: dict[str, int]) -> str:
    """What `fuse` did, for a person."""
    listed = ", ".join(f"{count} {kind}" for kind, count in done.items())
    return f"Our own passes for {listed}." if listed else "No passes of our own: this model keeps its libraries' own."


def _norm_forward(module: Any) -> Forward | None:
    if type(module) is nn.LayerNorm:
        return lambda states: norms.layer_norm(states, module)
    kind = norm_kind(module)
    if kind is None:
        return None
    epsilon, offset = epsilon_of(module) or 0.0, kind == "offset"

    def forward(states: torch.Tensor) -> torch.Tensor:
        return norms.rms_norm(states, module.weight, epsilon, offset=offset)

    return forward


def _layer_forward(module: Any) -> Forward | None:
    """h = x + attention(norm(x)) and the norm of h in one pass."""
    if not is_add_and_norm_layer(module):
        return None
    second = module.post_attention_layernorm
    epsilon, offset = epsilon_of(second) or 0.0, norm_kind(second) == "offset"

    def forward(hidden_states: torch.Tensor, **named: Any) -> torch.Tensor:
        attended, _ = module.self_attn(hidden_states=module.input_layernorm(hidden_states), **named)
        added, normal = norms.add_rms_norm(attended, hidden_states, second.weight, epsilon, offset=offset)
        return added + module.mlp(normal)

    return forward


def _mlp_forward(module: Any) -> Forward | None:
    kind = mlp_kind(module)
    if kind is None:
        return None
    sites = _sites(module, kind.names)
    return _between_linears(module, kind) if sites is None else _whole_mlp(sites, kind)


def _whole_mlp(sites: list[Site], kind: MlpKind) -> Forward:
    recomputing = False

    def forward(states: torch.Tensor) -> torch.Tensor:
        flat = states.reshape(-1, states.shape[-1])
        return mlp(flat, sites, activation=kind.activation, recomputing=recomputing).view(states.shape)

    def choose(wanted: bool) -> None:
        nonlocal recomputing
        recomputing = wanted

    forward.choose_recomputing = choose  # type: ignore[attr-defined]
    return forward


def _between_linears(module: Any, kind: MlpKind) -> Forward:
    """The linears' own passes, and ours for what stands between them."""
    *wide, down = (getattr(module, name) for name in kind.names)

    def forward(states: torch.Tensor) -> torch.Tensor:
        halves = [linear(states) for linear in wide]
        if kind.names not in GATED:
            return down(norms.activate(halves[0], kind.activation))
        gated, other = halves if len(halves) == 2 else halves[0].chunk(2, dim=-1)
        return down(norms.gate(gated, other, kind.activation))

    return forward


def _attention_forward(module: Any) -> Forward | None:
    kind = attention_kind(module)
    sites = None if kind is None else _sites(module, kind.names)
    return None if kind is None or sites is None else _whole_attention(module, kind, sites)


def _whole_attention(module: Any, kind: AttentionKind, sites: list[Site]) -> Forward:
    plain = module.forward

    def forward(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        segments = kwargs.get("segments")
        if segments is None:  # generation, which packs nothing
            result: tuple[torch.Tensor, None] = plain(hidden_states, *args, **kwargs)
            return result
        states = hidden_states[0]
        query, key, value = (part.view(len(states), -1, module.head_dim) for part in project(states, sites[:3]))
        if kind.norms:
            query, key = module.q_norm(query), module.k_norm(key)
        if kind.rotates:
            angles = [table[0] for table in kwargs["position_embeddings"]]
            query, key = norms.rotate(query, *angles), norms.rotate(key, *angles)
        attended = segment_attention(query, key, value, segments=segments, scores=kind.scores)
        (output,) = project(attended.reshape(len(states), -1), sites[3:])
        return output[None], None

    return forward


def _linear_forward(module: Any) -> Forward | None:
    site = site_of(module) if hasattr(module, "lora_A") else None
    if site is None:
        return None

    def forward(states: torch.Tensor) -> torch.Tensor:
        flat = states.reshape(-1, states.shape[-1])
        output = adapted_linear(flat, site, training=module.training)
        return output.view(*states.shape[:-1], output.shape[-1])

    return forward


_PASSES: dict[str, Callable[[Any], Forward | None]] = {
    "norms": _norm_forward,
    "layers": _layer_forward,
    "mlps": _mlp_forward,
    "attentions": _attention_forward,
    "linears": _linear_forward,
    "experts": experts_forward,
}


def _sites(module: nn.Module, names: tuple[str, ...]) -> list[Site] | None:
    """Plain sites for all names, or None."""
    sites = [site_of(getattr(module, name)) for name in names]
    plain = [site for site in sites if site is not None and site.is_plain]
    return plain if len(plain) == len(sites) else None


def site_of(module: Any) -> Site | None:
    """A frozen linear and its adapter; None where our passes would not compute the same."""
    base = getattr(module, "base_layer", module)
    if not isinstance(base, nn.Linear) and not is_conv1d(base):  # PEFT also wraps bare parameters
        return None
    if not hasattr(module, "lora_A"):
        return None if base.weight.requires_grad else Site(base, None, None, 0.0, transposed=is_conv1d(base))
    variants = dict(getattr(module, "lora_variant", {}))
    if (
        list(module.lora_A) != [ADAPTER]
        or module.merged
        or module.lora_bias[ADAPTER]
        or base.weight.requires_grad
        or any(type(variant).__name__ != "DoraLinearVariant" for variant in variants.values())
    ):
        return None
    dropout = module.lora_dropout[ADAPTER]
    return Site(
        base,
        module.lora_A[ADAPTER].weight,
        module.lora_B[ADAPTER].weight,
        float(module.scaling[ADAPTER]),
        transposed=is_conv1d(base),
        dropout=dropout if isinstance(dropout, nn.Dropout) and dropout.p else None,
        magnitude=module.lora_magnitude_vector[ADAPTER].weight if variants else None,
    )
