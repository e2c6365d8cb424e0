"""Frozen 4-bit weights shared out over the processes of a run: each keeps a part of every layer and borrows the rest.

The way of fully sharded data parallelism with weights (arXiv 2304.11277), for weights that never change: nothing is
summed or written back. While a layer runs, forward or backward, its bytes lie gathered in one of two buffers, those of
even layers in one and of odd layers in the other, and its neighbour's are on their way into the other. A weight is the
same place of the same buffer for the whole run, so whatever the forward pass has kept of it is right in the backward
pass again, once the layer has been gathered again. Adapters are outside of this: every process has them whole.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.integrations.bitsandbytes import Bnb4bitQuantize
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

from tunesmith.worker.train.models.text_part import layers_of

ALIGNMENT_BYTES = 256  # what the widest loads of a GPU want, and every dtype
METHOD = "bitsandbytes_shared_out"
# As long as the other processes may wait for the main one to hash a checkpoint or to write the result.
PATIENCE = timedelta(hours=6)
all_gather = getattr(torch.distributed, "all_gather_single", None) or torch.distributed.all_gather_into_tensor  # < 2.13


class SharedOut(BitsAndBytesConfig):
    """Quantise while loading, as its parent, and keep of each layer no more than this process's part.

    Every process of the run loads the same model at the same time. `sharded_base(model)` is what came of it.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.quant_method = METHOD


def sharded_base(model: nn.Module) -> "ShardedBase | None":
    """The weights that a model loaded with `SharedOut` has shared out."""
    return getattr(getattr(model, "hf_quantizer", None), "base", None)


class ShardedBase:
    """The 4-bit weights of a model's layers, of which this process keeps one part in as many as there are processes.

    Every process runs the same layers in the same order: each gathers, and waits for the others.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._group = torch.distributed.new_group(timeout=PATIENCE)  # apart from gradients, which have an order too
        self._processes, self._rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
        self._layers = [layer for layer in map(_Layer, layers_of(model)) if layer.waits_for]
        self._layer_of = {id(linear): layer for layer in self._layers for linear in layer.waits_for}
        self._buffers: list[_Buffer] = []
        self._last_backward: int | None = None
        _leave_out_what_layers_share(self._layers)

    @property
    def share_bytes(self) -> int:
        """What this process keeps."""
        return sum(layer.share.numel() for layer in self._layers)

    @property
    def buffer_bytes(self) -> int:
        """What the layer at work and its neighbour take, gathered."""
        return sum(buffer.bytes.numel() for buffer in self._buffers)

    @property
    def whole_bytes(self) -> int:
        """What all processes keep together."""
        return self.share_bytes * self._processes

    def quantised(self, linear: nn.Module, weight: Any) -> None:
        """`weight` is about to become that of `linear`; with its last one a layer is shared out."""
        layer = self._layer_of.get(id(linear))
        if layer is None:
            return
        layer.take(linear, weight)
        if not layer.waits_for:
            layer.keep_part(rank=self._rank, processes=self._processes)

    def complete(self) -> None:
        """All files are read: give each weight its place in a buffer, and let each layer call for its bytes."""
        self._layers = [layer for layer in self._layers if not layer.waits_for]  # others lack weights: told elsewhere
        self._buffers = [self._buffer_for(layers) for layers in (self._layers[::2], self._layers[1::2]) if layers]
        for index, layer in enumerate(self._layers):
            layer.lie_in(self._buffers[index % 2].bytes)
            self._follow(index, layer.module)

    def _buffer_for(self, layers: list["_Layer"]) -> "_Buffer":
        size = self._processes * max(layer.share.numel() for layer in layers)
        return _Buffer(torch.zeros(size, dtype=torch.uint8, device=layers[0].share.device))

    def _follow(self, index: int, module: nn.Module) -> None:
        def before(*_: Any) -> None:
            self._last_backward = None
            self._bring(index, following=index + 1)

        def after(_module: nn.Module, _inputs: Any, output: Any) -> None:
            for tensor in _tensors(output):
                if tensor.requires_grad:
                    tensor.register_hook(lambda _: self._before_backward(index))

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)

    def _before_backward(self, index: int) -> None:
        """The gradient of a layer's output is complete: its backward pass is next, and that of no later layer is left.

        Raises:
            RuntimeError: layers come in another order, so that one might read the bytes of another.
        """
        last, top = self._last_backward, len(self._layers) - 1
        if last is not None and index not in (last, last - 1, top):
            raise RuntimeError(f"the backward pass of layer {index} followed that of layer {last}")
        self._last_backward = index
        self._bring(index, following=index - 1)

    def _bring(self, index: int, *, following: int) -> None:
        """Have a layer's bytes in their buffer, and begin to gather those of the one that comes next."""
        self._begin(index)
        self._buffers[index % 2].wait()
        if 0 <= following < len(self._layers):
            self._begin(following)

    def _begin(self, index: int) -> None:
        buffer, share = self._buffers[index % 2], self._layers[index].share
        if buffer.holds == index:
            return
        buffer.wait()
        buffer.holds = index
        whole = buffer.bytes[: share.numel() * self._processes]
        buffer.under_way = all_gather(whole, share, group=self._group, async_op=True)


@dataclass
class _Buffer:
    """Room for one gathered layer."""

    bytes: torch.Tensor
    holds: int | None = None
    under_way: torch.distributed.Work | None = None

    def wait(self) -> None:
        if self.under_way is not None:
            self.under_way.wait()
            self.under_way = None


@dataclass(frozen=True)
class _Piece:
    """One tensor of a layer: whose attribute it is, and where it lies among the layer's bytes."""

    owner: Any
    name: str
    start: int

    @property
    def tensor(self) -> torch.Tensor:
        found: torch.Tensor = getattr(self.owner, self.name)
        return found

    @property
    def flat(self) -> torch.Tensor:
        """uint8."""
        return self.tensor.detach().contiguous().view(-1).view(torch.uint8)

    def lie_in(self, buffer: torch.Tensor, *, dtype: torch.dtype, shape: torch.Size) -> None:
        size = shape.numel() * dtype.itemsize
        setattr(self.owner, self.name, buffer[self.start : self.start + size].view(dtype).view(shape))


class _Layer:
    """A layer's 4-bit weights with their scales: first as they are loaded, then as this process's share of them."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.waits_for = {linear for linear in module.modules() if _is_4_bit(linear)}
        self.share = torch.empty(0, dtype=torch.uint8)
        self._pieces: list[_Piece] = []
        self._kinds: list[tuple[torch.dtype, torch.Size]] = []
        self._bytes = 0

    def take(self, linear: nn.Module, weight: Any) -> None:
        self.waits_for.discard(linear)
        for owner, name in _places(weight):
            piece = _Piece(owner, name, self._bytes)
            self._pieces.append(piece)
            self._kinds.append((piece.tensor.dtype, piece.tensor.shape))
            self._bytes += _aligned(piece.flat.numel())

    def keep_part(self, *, rank: int, processes: int) -> None:
        """Copy this process's part of the bytes, the last one filled up with zeros, and give back the rest."""
        size = _aligned(-(-self._bytes // processes))
        self.share = torch.zeros(size, dtype=torch.uint8, device=self._pieces[0].tensor.device)
        for piece in self._pieces:
            flat, start = piece.flat, piece.start - rank * size
            low, high = max(0, -start), min(flat.numel(), size - start)
            if low < high:
                self.share[start + low : start + high] = flat[low:high]
            setattr(piece.owner, piece.name, piece.tensor.new_empty(0))

    def lie_in(self, buffer: torch.Tensor) -> None:
        for piece, (dtype, shape) in zip(self._pieces, self._kinds, strict=True):
            piece.lie_in(buffer, dtype=dtype, shape=shape)


@register_quantizer(METHOD)
class _SharingQuantizer(Bnb4BitHfQuantizer):
    """bitsandbytes' own, but that a weight goes to the base as soon as it is quantised: one layer is whole at most."""

    base: ShardedBase

    @property
    def quantized_element_size(self) -> float:
        """Bytes of an entry, by which transformers reserves memory before it loads."""
        return 0.5 / torch.distributed.get_world_size()

    def get_quantize_ops(self) -> "_QuantizeAndShare":
        return _QuantizeAndShare(self)

    def _process_model_before_weight_loading(self, model: PreTrainedModel, device_map: Any, **named: Any) -> None:
        super()._process_model_before_weight_loading(model, device_map, **named)
        self.base = ShardedBase(model)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **named: Any) -> Any:
        self.base.complete()
        return super()._process_model_after_weight_loading(model, **named)


class _QuantizeAndShare(Bnb4bitQuantize):
    def convert(self, input_dict: dict[str, Any], *args: Any, **named: Any) -> dict[str, torch.Tensor]:
        result: dict[str, torch.Tensor] = super().convert(input_dict, *args, **named)
        for name, weight in result.items():
            linear = named["model"].get_submodule(name.rpartition(".")[0])
            self.hf_quantizer.base.quantised(linear, weight)
        return result


def _places(weight: Any) -> Iterator[tuple[Any, str]]:
    """What grows with a 4-bit weight: packed entries, scales, and with double quantisation the scales of those."""
    state = weight.quant_state
    yield weight, "data"
    yield state, "absmax"
    if state.nested:
        yield state.state2, "absmax"


def _is_4_bit(module: nn.Module) -> bool:
    return type(module).__name__ == "Linear4bit"


def _leave_out_what_layers_share(layers: list[_Layer]) -> None:
    """A linear of two layers would have to lie in two buffers: it stays whole in every process."""
    uses = Counter(linear for layer in layers for linear in layer.waits_for)
    for layer in layers:
        layer.waits_for = {linear for linear in layer.waits_for if uses[linear] == 1}


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, (tuple, list)):
        for part in output:
            yield from _tensors(part)
