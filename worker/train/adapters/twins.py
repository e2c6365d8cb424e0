"""Does a module of some family compute what one of our passes computes? Asked of a tiny twin of it, on the CPU.

A twin runs the module's own code over small random weights in place of its large ones. When what comes out is what our
pass gives, the module qualifies, whatever it is called; when it raises or differs, it keeps its own passes. So no list
of names can be out of date, and no family is taken for another.
"""

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal, get_args

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from tunesmith.worker.train.attention.packed import packed_attention
from tunesmith.worker.train.attention.segments import Scores, Segments
from tunesmith.worker.train.kernels import elementwise
from tunesmith.worker.train.kernels.elementwise import Activation

NormKind = Literal["plain", "offset"]
GATED: tuple[tuple[str, ...], ...] = (("gate_proj", "up_proj", "down_proj"), ("gate_up_proj", "down_proj"))
UNGATED: tuple[tuple[str, ...], ...] = (
    ("fc1", "fc2"), ("c_fc", "c_proj"), ("up_proj", "down_proj"), ("dense_h_to_4h", "dense_4h_to_h"),
)  # fmt: skip
OUTPUTS = ("o_proj", "dense", "out_proj")
HIDDEN, INNER, HEADS, HEAD_SIZE = 8, 12, 2, 4
PROBE = "tunesmith_probe"
TOLERANCE = 1e-5


@dataclass(frozen=True)
class MlpKind:
    """Which linears an MLP has, by attribute, and what stands between them."""

    names: tuple[str, ...]
    activation: Activation


@dataclass(frozen=True)
class AttentionKind:
    """How an attention module goes from projections to scores."""

    names: tuple[str, ...]
    rotates: bool
    norms: bool
    scores: Scores


def norm_kind(module: nn.Module) -> NormKind | None:
    """Whether a module is a root-mean-square norm, and if its factor is the weight or one more."""
    if epsilon_of(module) is None or [name for name, _ in module.named_parameters()] != ["weight"]:
        return None
    return _norm_kind(type(module), epsilon_of(module) or 0.0)  # type: ignore[arg-type]  # a class is hashable


def epsilon_of(module: Any) -> float | None:
    """What a norm adds to the mean of squares, by the names that families have for it."""
    found = next((value for name in ("variance_epsilon", "eps") if (value := getattr(module, name, None))), None)
    return found if isinstance(found, float) else None


def mlp_kind(module: nn.Module) -> MlpKind | None:
    """Whether a module is down(activation(gate(x)) * up(x)), or down(activation(up(x)))."""
    activation = _activation_of(module)
    names = next((names for names in (*GATED, *UNGATED) if all(hasattr(module, name) for name in names)), None)
    if activation is None or names is None or any(child.p for child in module.children() if _drops(child)):
        return None
    gated = names in GATED
    sizes = [(HIDDEN, INNER * (2 if name == "gate_up_proj" else 1)) for name in names[:-1]] + [(INNER, HIDDEN)]
    twin = _twin(module, {name: _linear(*size) for name, size in zip(names, sizes, strict=True)})

    def ours(x: torch.Tensor) -> torch.Tensor:
        *wide, down = (getattr(twin, name) for name in names)
        halves = [half for linear in wide for half in linear(x).split(INNER, dim=-1)]
        if gated:
            return down(elementwise.gate(halves[0], halves[1], activation))
        return down(elementwise.activate(halves[0], activation))

    return MlpKind(names, activation) if _same(twin, ours, _random(3, HIDDEN)) else None


def attention_kind(module: Any) -> AttentionKind | None:
    """Whether a module projects, perhaps normalises each head, perhaps rotates by halves, attends, and projects."""
    output = next((name for name in OUTPUTS if hasattr(module, name)), None)
    names = ("q_proj", "k_proj", "v_proj", output or "")
    if not all(isinstance(getattr(module, name, None), nn.Module) for name in names) or not hasattr(module, "config"):
        return None
    sizes = ((HIDDEN, HEADS * HEAD_SIZE), (HIDDEN, HEAD_SIZE), (HIDDEN, HEAD_SIZE), (HEADS * HEAD_SIZE, HIDDEN))
    parts: dict[str, nn.Module] = {name: _linear(*size) for name, size in zip(names, sizes, strict=True)}
    norms = isinstance(getattr(module, "q_norm", None), nn.Module)
    if norms:
        parts |= {name: _norm_twin(getattr(module, name), HEAD_SIZE) for name in ("q_norm", "k_norm")}
    twin = _twin(module, parts)
    _shrink(twin)
    try:
        scores, wanted = _observed(twin)
    except Exception:
        return None
    if scores is None:
        return None
    kinds = (AttentionKind(names, rotates=rotates, norms=norms, scores=scores) for rotates in (True, False))
    return next((kind for kind in kinds if _close(attend(twin, kind, *_attention_inputs(twin)), wanted)), None)


def is_add_and_norm_layer(module: Any) -> bool:
    """Whether a decoder layer is h = x + attention(norm(x)); h + mlp(norm(h)), by the names that most have."""
    names = ("input_layernorm", "post_attention_layernorm", "self_attn", "mlp")
    if not all(isinstance(getattr(module, name, None), nn.Module) for name in names):
        return False
    if any(norm_kind(getattr(module, name)) is None for name in names[:2]):
        return False
    parts: dict[str, nn.Module] = {name: _norm_twin(getattr(module, name), HIDDEN) for name in names[:2]}
    parts |= {"self_attn": _Attended(), "mlp": _linear(HIDDEN, HIDDEN)}
    twin: Any = _twin(module, parts)

    def ours(x: torch.Tensor) -> torch.Tensor:
        attended, _ = twin.self_attn(hidden_states=twin.input_layernorm(x))
        added = x + attended
        return added + twin.mlp(twin.post_attention_layernorm(added))

    return _same(twin, ours, _random(1, 3, HIDDEN))


def attend(
    module: Any,
    kind: AttentionKind,
    states: torch.Tensor,
    angles: tuple[torch.Tensor, torch.Tensor],
    segments: Segments,
) -> torch.Tensor:
    """What our pass over an attention module computes, in plain PyTorch: [1, tokens, hidden]."""
    from tunesmith.worker.train.attention.packed import segment_attention

    query, key, value = (
        getattr(module, name)(states)[0].view(states.shape[1], -1, module.head_dim) for name in kind.names[:3]
    )
    if kind.norms:
        query, key = module.q_norm(query), module.k_norm(key)
    if kind.rotates:
        query, key = (elementwise.rotate(part, *(table[0] for table in angles), direction=1.0) for part in (query, key))
    attended = segment_attention(query, key, value, segments=segments, scores=kind.scores)
    return getattr(module, kind.names[3])(attended.reshape(1, states.shape[1], -1))


class _Attended(nn.Module):
    """Stands for attention in a layer's twin."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = _linear(HIDDEN, HIDDEN)

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
        return self.linear(hidden_states), None


@cache
def _norm_kind(kind: type[nn.Module], epsilon: float) -> NormKind | None:
    takes = [one for one in inspect.signature(kind.forward).parameters.values() if one.default is one.empty]
    if len(takes) != 2:  # itself and x
        return None
    twin = kind.__new__(kind)
    nn.Module.__init__(twin)
    twin.weight = nn.Parameter(_random(HIDDEN))
    twin.variance_epsilon = twin.eps = epsilon  # type: ignore[assignment]
    twin.normalized_shape = (HIDDEN,)  # type: ignore[assignment]  # of PyTorch's own
    x = _random(3, HIDDEN)
    kinds: tuple[tuple[NormKind, bool], ...] = (("plain", False), ("offset", True))
    for name, offset in kinds:
        if _same(twin, partial(_normalised, weight=twin.weight, epsilon=epsilon, offset=offset), x):
            return name
    return None


def _normalised(x: torch.Tensor, *, weight: torch.Tensor, epsilon: float, offset: bool) -> torch.Tensor:
    return elementwise.rms_norm(x, weight, epsilon, offset=offset)[0]


def _activation_of(module: Any) -> Activation | None:
    names = ("act_fn", "activation_fn", "act", "activation")
    function = next((found for name in names if callable(found := getattr(module, name, None))), None)
    if function is None:
        return None
    x = torch.linspace(-4, 4, 65)
    for activation in get_args(Activation):
        try:
            if _close(function(x), elementwise.activate(x, activation)):
                return activation
        except Exception:
            return None
    return None


def _drops(child: Any) -> bool:
    return isinstance(child, nn.Dropout)


def _twin(module: nn.Module, parts: dict[str, nn.Module]) -> nn.Module:
    """The module's own code and settings over other parts."""
    twin = copy.copy(module)
    twin.__dict__ = {name: value for name, value in module.__dict__.items() if name != "forward"}  # not one of ours
    twin._modules = {**module._modules, **parts}  # noqa: SLF001 - a shallow copy shares the table
    twin.training = True  # a dropout that is not zero shows itself
    return twin


def _norm_twin(module: nn.Module, size: int) -> nn.Module:
    twin = _twin(module, {})
    twin._parameters = {"weight": nn.Parameter(_random(size))}  # noqa: SLF001
    return twin


def _shrink(twin: Any) -> None:
    """The sizes that attention modules keep beside their projections."""
    for name, value in {
        "head_dim": HEAD_SIZE, "num_key_value_groups": HEADS, "num_heads": HEADS, "num_attention_heads": HEADS,
        "num_key_value_heads": 1, "hidden_size": HIDDEN, "rotary_ndims": 2,
    }.items():  # fmt: skip
        if hasattr(twin, name):
            setattr(twin, name, value)
    twin.config = copy.copy(twin.config)
    twin.config._attn_implementation = PROBE  # noqa: SLF001 - the one way in


def _observed(twin: Any) -> tuple[Scores | None, torch.Tensor]:
    """The scores that the module asks for, and what it then computes; None for what our passes cannot do."""
    seen: list[dict[str, Any]] = []

    def probe(*arguments: Any, **named: Any) -> tuple[torch.Tensor, None]:
        seen.append(named)
        return packed_attention(*arguments, **named)

    ALL_ATTENTION_FUNCTIONS.register(PROBE, probe)
    states, angles, segments = _attention_inputs(twin)
    with torch.no_grad():
        output = type(twin).forward(
            twin, hidden_states=states, position_embeddings=angles, attention_mask=None, segments=segments
        )[0]
    (asked,) = seen
    if asked.get("dropout") or asked.get("s_aux") is not None or not getattr(twin, "is_causal", True):
        return None, output
    scale = asked.get("scaling")
    scores = Scores(HEAD_SIZE**-0.5 if scale is None else scale, asked.get("sliding_window"), asked.get("softcap"))
    return (None if scale is None else replace(scores, scale=scale)), output


def _attention_inputs(twin: Any) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor], Segments]:
    size = getattr(twin, "rotary_ndims", HEAD_SIZE)
    segments = Segments.of([2, 3], device=torch.device("cpu")).through("sdpa")
    angles = torch.linspace(0, 3, 5 * size // 2).view(1, 5, -1).repeat(1, 1, 2)
    return _random(1, 5, HIDDEN), (angles.cos(), angles.sin()), segments


def _linear(inward: int, outward: int) -> nn.Linear:
    linear = nn.Linear(inward, outward, device="meta").to_empty(device="cpu").requires_grad_(False)
    linear.weight.copy_(_random(outward, inward))
    linear.bias.copy_(_random(outward))
    return linear


def _random(*size: int) -> torch.Tensor:
    """Of its own: a run's random numbers must not depend on this."""
    return torch.randn(*size, generator=torch.Generator().manual_seed(sum(size)))


def _same(twin: nn.Module, ours: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> bool:
    try:
        with torch.no_grad():
            return _close(type(twin).forward(twin, x), ours(x))
    except Exception:
        return False


def _close(found: torch.Tensor | Sequence[Any], wanted: torch.Tensor) -> bool:
    return isinstance(found, torch.Tensor) and torch.allclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE)


def is_conv1d(module: nn.Module) -> bool:
    """Whether a linear keeps its weight as [in, out]."""
    return isinstance(module, Conv1D)
