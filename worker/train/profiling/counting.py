"""What the trainer really saves for the backward pass, counted tensor by tensor on the meta or CPU device.

Every tensor that autograd saves passes through a hook; distinct storages are added up, parameters and buffers left out.
Two depths of the same model give the bytes of one layer by subtraction, free of embeddings, head and loss.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from tuning.plan import Lora
from worker.train.kernels import attention, rebuild
from worker.train.kernels.attention_kernels import KERNELS
from worker.train.kernels.segments import Segments
from worker.train.models.adapter import attach_adapter
from worker.train.models.fuse import fuse
from worker.train.models.model import Learner, enable_checkpointing

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


def layer_bytes(case: Case, *, shallow: int = 2, deep: int = 4) -> float:
    """Saved bytes of one layer."""
    return (saved_bytes(case, layers=deep) - saved_bytes(case, layers=shallow)) / (deep - shallow)


def saved_bytes(case: Case, *, layers: int) -> int:
    """Bytes saved by one forward pass through the decoder with `layers` layers."""
    learner = build(case, layers=layers)
    batch = _batch(case)
    with counted(learner) as sizes, _flash_attention(case.device):
        output = learner.hidden_states(batch)
    del output
    return sum(sizes.values())


def build(case: Case, *, layers: int) -> Learner:
    """The trainer's own assembly of the model, with untrained weights."""
    attention.register()
    key = "n_layer" if case.config["model_type"] == "gpt2" else "num_hidden_layers"
    config = AutoConfig.for_model(**{**case.config, key: layers})
    config.use_cache = False
    with torch.device(case.device):
        model = AutoModelForCausalLM.from_config(
            config, dtype=DTYPES[case.precision], attn_implementation=attention.PACKED
        )
        model = model.train()
        if case.method == "lora":
            model = attach_adapter(model, _lora(case), continue_from=None, seed=0)
    if case.fused:
        fuse(model)
    enable_checkpointing(model, case.checkpointing)
    return Learner(model).train()


@contextmanager
def counted(module: nn.Module) -> Iterator[dict[int, int]]:
    """Collects {storage: bytes} of everything saved inside, without the module's own parameters and buffers."""
    own = {_storage(tensor) for tensor in _tensors(module)}
    sizes: dict[int, int] = {}
    kept: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        key = _storage(tensor)
        if key not in own and key not in sizes:
            sizes[key] = tensor.untyped_storage().nbytes()
            kept.append(tensor)  # its address must not be given to another while we count
        return tensor

    # A layer that recomputes selectively has hooks of its own, which are the only ones to see what it saves.
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        patch.object(rebuild, "kept", pack),
    ):
        yield sizes


@contextmanager
def _flash_attention(device: str) -> Iterator[None]:
    """The meta device stands for a GPU, whose kernel it does not have: keep what that one keeps."""
    with patch.dict(KERNELS, {"sdpa": _flash} if device == "meta" else {}):
        yield


def _flash(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **_: Any) -> torch.Tensor:
    attended: torch.Tensor = _Flash.apply(query, key, value)
    return attended


class _Flash(torch.autograd.Function):
    """Keeps what FlashAttention keeps: q, k, v, the output and one fp32 logsumexp per head and token."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        sums = torch.empty(query.shape[:2], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, output, sums)
        return output

    @staticmethod
    def backward(ctx: Any, _grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _batch(case: Case) -> Any:
    from worker.train.data.packing import PackedBatch

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


def _tensors(module: nn.Module) -> Iterable[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001 - meta tensors have no address
