"""What the trainer really saves for the backward pass, counted tensor by tensor on the meta or CPU device.

Every tensor that autograd saves passes through a hook; distinct storages are added up, parameters and buffers left out.
What is saved while a layer runs belongs to it: embeddings, head and loss run outside.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel, masking_utils
from transformers.integrations import moe

from tunesmith.tuning.models.packing import attention_alone
from tunesmith.tuning.plan import Lora
from tunesmith.worker.train.adapters.adapter import attach_adapter
from tunesmith.worker.train.adapters.fuse import fuse
from tunesmith.worker.train.attention import packed
from tunesmith.worker.train.attention.kernels import KERNELS
from tunesmith.worker.train.attention.segments import Segments
from tunesmith.worker.train.kernels import rebuild
from tunesmith.worker.train.models.dropouts import without_dropout
from tunesmith.worker.train.models.model import Learner, auto_class, enable_checkpointing
from tunesmith.worker.train.models.text_part import layers_of

Kind = tuple[str, ...]

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Case:
    """One configuration whose saved activations are counted."""

    config: Mapping[str, Any]
    method: str = "lora"  # or "full"
    checkpointing: str = "none"
    precision: str = "bf16"
    tokens: int = 256
    segments: int = 1
    rank: int = 16
    targets: Any = "all-linear"
    dropout: float = 0.0
    dora: bool = False
    device: str = "meta"
    fused: bool = True


def layer_bytes(case: Case, *, layers: int) -> float:
    """Saved bytes of one layer, the average over all of a model with `layers` layers."""
    learner = build(case, layers=layers)
    parts = layers_of(learner.causal_model)
    return sum(_saved(learner, case, inside=parts).values()) / len(parts)


def counted_bytes_per_token(case: Case) -> float:
    """Saved bytes of one layer for one token, the average over all layers of the model.

    Scores, which grow with the square of a row's length, are left out. Two lengths tell the two apart: of a row of n
    tokens a layer saves a n + b n^2 bytes.
    """
    learner, kinds = _shortened(case)
    parts = layers_of(learner.causal_model)
    short, long = (
        _mean(_saved(learner, replace(case, tokens=tokens), inside=parts), kinds) / tokens
        for tokens in (case.tokens, 2 * case.tokens)
    )
    return 2 * short - long


def saved_bytes(case: Case, *, layers: int) -> int:
    """Bytes saved by one forward pass through the decoder with `layers` layers."""
    return _saved(build(case, layers=layers), case).total()


def build(case: Case, *, layers: int | None = None) -> Learner:
    """The trainer's own assembly of the model, with untrained weights."""
    with torch.device(case.device):
        model = untrained({**case.config, **_depth(case, layers)}, dtype=DTYPES[case.precision])
    return _assembled(model, case)


def _assembled(model: PreTrainedModel, case: Case) -> Learner:
    model = model.train()
    with torch.device(case.device):
        if case.method == "lora":
            model = attach_adapter(model, _lora(case), continue_from=None, seed=0)
    if case.fused:
        fuse(model)
    enable_checkpointing(model, case.checkpointing)
    learner = Learner(model).train()
    if own := attention_alone(str(case.config["model_type"])):
        learner.attend_alone(own)
    return learner


def _shortened(case: Case) -> tuple[Learner, list[Kind]]:
    """The model without the layers after the first of each kind, and of what kind each of the whole one is.

    Recurrent layers that are written out in Python take seconds each.
    """
    with torch.device(case.device):
        model = untrained(case.config, dtype=DTYPES[case.precision])
    layers = layers_of(model)
    kinds = [_kind(layer) for layer in layers]
    needed = 1 + max(kinds.index(kind) for kind in kinds)
    for part in model.modules():
        if isinstance(part, nn.ModuleList) and list(part) == layers:
            del part[needed:]
    return _assembled(model, case), kinds


def _kind(layer: nn.Module) -> Kind:
    """Layers of one kind have parameters of the same names and sizes, and the same words as settings."""
    sizes = [(name, tuple(parameter.shape)) for name, parameter in layer.named_parameters()]
    settings = (value for part in layer.modules() for value in vars(part).values() if isinstance(value, str))
    return str(sizes), *settings


def _mean(saved: Counter[int], kinds: Sequence[Kind]) -> float:
    """Of all layers, from what was saved in the first ones."""
    return sum(saved[kinds.index(kind)] for kind in kinds) / len(kinds)


def untrained(config: Mapping[str, Any], *, dtype: torch.dtype) -> PreTrainedModel:
    """The model that `transformers` builds from this config, attending as the trainer lets it.

    Raises:
        ValueError, AttributeError, ...: `transformers` does not know it, or cannot build it.
    """
    packed.register()
    known = without_dropout(AutoConfig.for_model(**config))
    known.use_cache = False
    try:
        return auto_class(known).from_config(known, dtype=dtype, attn_implementation=packed.PACKED)
    except (KeyError, ValueError) as error:  # classes from before transformers' attention interface
        if packed.PACKED not in str(error):
            raise
    return auto_class(known).from_config(known, dtype=dtype, attn_implementation="eager")


def _depth(case: Case, layers: int | None) -> dict[str, int]:
    if layers is None:
        return {}
    return {"n_layer" if case.config["model_type"] == "gpt2" else "num_hidden_layers": layers}


def _saved(learner: Learner, case: Case, *, inside: Sequence[nn.Module] = ()) -> Counter[int]:
    with _on_its_device(case.device), counted(learner, inside=inside) as sizes:
        output = learner.hidden_states(_batch(case))
    del output
    return sizes


@contextmanager
def counted(module: nn.Module, *, inside: Sequence[nn.Module] = ()) -> Iterator[Counter[int]]:
    """Collects the bytes saved while each of `inside` runs, by its position; without `inside` all that is saved, at 0.

    A storage counts once. Left out are parameters and buffers of the module, and what all of `inside` are handed alike:
    angles, masks.
    """
    tally = _Tally(module, position=None if inside else 0)
    with ExitStack() as hooks:
        for position, part in enumerate(inside):
            hooks.callback(part.register_forward_pre_hook(partial(tally.begin, position), with_kwargs=True).remove)
            hooks.callback(part.register_forward_hook(tally.end).remove)
        # A layer that recomputes selectively has hooks of its own, which are the only ones to see what it saves.
        hooks.enter_context(torch.autograd.graph.saved_tensors_hooks(tally.add, lambda tensor: tensor))
        hooks.enter_context(_replaced(rebuild, "kept", tally.add))
        yield tally.sizes


class _Tally:
    """Adds up what is saved, under the position of the part that runs; nothing while none does."""

    def __init__(self, module: nn.Module, *, position: int | None) -> None:
        self.sizes: Counter[int] = Counter()
        self._running = [position]
        self._known = {_storage(tensor) for tensor in (*module.parameters(), *module.buffers())}
        self._kept: list[torch.Tensor] = []  # the address of one must not be given to another while we count

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        position = self._running[-1]
        if position is not None and _storage(tensor) not in self._known:
            self.sizes[position] += tensor.untyped_storage().nbytes()
            self._know([tensor])
        return tensor

    def begin(self, position: int, _: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        self._running.append(position)
        self._know(_flat((*given[1:], named)))
        return _learning(given), named

    def end(self, *_: Any) -> None:
        self._running.pop()

    def _know(self, tensors: Iterable[torch.Tensor]) -> None:
        for tensor in tensors:
            self._kept.append(tensor)
            self._known.add(_storage(tensor))


def _learning(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Hidden states with a gradient, so that the first layer over a frozen embedding saves what the others do."""
    if given and isinstance(given[0], torch.Tensor) and not given[0].requires_grad:
        return (given[0].detach().requires_grad_(), *given[1:])
    return given


def _flat(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested sequences and dictionaries."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _flat(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)


@contextmanager
def _on_its_device(device: str) -> Iterator[None]:
    """The meta device stands for a GPU, whose kernels it does not have: keep what those keep.

    Nor has it values to look at, a capability to multiply grouped experts by, or autocasting.
    """
    if device != "meta":
        yield
        return
    with (
        _replaced(packed, "KERNELS", {**KERNELS, "sdpa": _flash}),
        _replaced(torch.nn.functional, "scaled_dot_product_attention", _flash_alone),
        _replaced(moe, "_can_use_grouped_mm", lambda *_, **__: False),
        _replaced(masking_utils, "find_packed_sequence_indices", lambda *_: None),
        _replaced(torch, "autocast", lambda *_, **__: nullcontext()),
    ):
        yield


@contextmanager
def _replaced(module: ModuleType, name: str, stand_in: Any) -> Iterator[None]:
    """Let a module use another value for a name, until the block ends."""
    own = getattr(module, name)
    setattr(module, name, stand_in)
    try:
        yield
    finally:
        setattr(module, name, own)


def _flash(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **_: Any) -> torch.Tensor:
    attended: torch.Tensor = _Flash.apply(query, key, value)
    return attended


def _flash_alone(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return _flash(query, key, value)


class _Flash(torch.autograd.Function):
    """Keeps what FlashAttention keeps: q, k, v, the output and one fp32 logsumexp per head and token."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        output = torch.empty(*query.shape[:-1], value.shape[-1], dtype=query.dtype, device=query.device)
        sums = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, output, sums)
        return output

    @staticmethod
    def backward(ctx: Any, _grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _batch(case: Case) -> Any:
    from tunesmith.worker.train.data.packing import PackedBatch

    length = case.tokens // case.segments
    device = torch.device(case.device)
    positions = torch.arange(length, device=device).repeat(case.segments)[None]
    return PackedBatch(
        input_ids=torch.zeros(1, length * case.segments, dtype=torch.long, device=device),
        position_ids=positions,
        target_positions=torch.arange(1, device=device),
        labels=torch.zeros(1, dtype=torch.long, device=device),
        target_sequences=torch.zeros(1, dtype=torch.long, device=device),
        segments=Segments.of([length] * case.segments, device=device),
        rows=(),
    )


def _lora(case: Case) -> Lora:
    return Lora(
        rank=case.rank,
        alpha=32,
        dropout=case.dropout,
        use_dora=case.dora,
        target_modules=case.targets,
        trainable_parameters=1,
    )


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001 - meta tensors have no address
