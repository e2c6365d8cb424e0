"""`python -m tunesmith.worker.train.profiling.shape CONFIG_FILE`: the shape of a model family without formulas.

Nothing of the model is loaded: it is built on the meta device at full depth, its parameters are counted and what its
layers save for the backward pass. Prints the shape as JSON; a reason, as JSON on stderr.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith.tuning.codes import ErrorCode
from tunesmith.worker.train import environment  # noqa: F401 - before torch

import torch  # isort: skip
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.models.linears import Linear, Role
from tunesmith.tuning.models.packing import require_causal
from tunesmith.tuning.models.shape import MEASURED_RANK, MeasuredActivations, ModelShape
from tunesmith.worker.train.adapters.adapter import adaptable_linears, role_of
from tunesmith.worker.train.adapters.experts import expert_parameters
from tunesmith.worker.train.models.text_part import TextPart, layers_of
from tunesmith.worker.train.profiling.counting import Case, counted_bytes_per_token, untrained

_TOKENS = 256  # a multiple of every chunk that recurrent layers pad to
# Where classes say how long a row may be; of those with positions that never end, what the planner takes for a row.
_CONTEXT_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")
_ENDLESS_CONTEXT = 2048
_ACTIVE_EXPERTS = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts")


def main() -> int:
    """Print the shape, or the reason why there is none."""
    try:
        config = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
        require_causal(config)
        print(measure_shape(config).model_dump_json())
    except InvalidRequest as refusal:
        return _end(refusal.message, code=refusal.code, hint=refusal.hint)
    except Exception as error:  # whatever a foreign model class raises on the meta device
        family = config.get("model_type") if isinstance(config, dict) else None
        message = f"The model family {family!r} cannot be measured: {_reason(error)}"
        hint = "A newer transformers release may know it. Models that bring code of their own are not trained here."
        return _end(message, code=ErrorCode.UNKNOWN_MODEL_FAMILY, hint=hint)
    return 0


def _end(message: str, *, code: str | None, hint: str | None) -> int:
    print(json.dumps({"message": message, "code": code, "hint": hint}), file=sys.stderr)
    return 1


def _reason(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def measure_shape(config: dict[str, Any]) -> ModelShape:
    """The shape of the model that `transformers` builds from this config, or of its part that works on text.

    Raises:
        ValueError, AttributeError, ...: `transformers` does not know it, or it is no causal language model that can be
            built and run without weights.
    """
    with torch.device("meta"):
        model = untrained(config, dtype=torch.bfloat16)
    text = model.config.get_text_config()
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    part = TextPart(model)
    parameters = {name: parameter.numel() for name, parameter in model.named_parameters()}
    inside = sum(size for name, size in parameters.items() if part.has(name))
    linears = (*_modules(model, part, head), *_experts(model, part, text))
    tied = head.weight is embedding
    counted = sum(linear.weights + linear.biases for linear in linears)
    counted += embedding.numel() * (1 if tied else 2) + (embedding.shape[0] if head.bias is not None else 0)
    return ModelShape(
        family=model.config.model_type,
        layers=len(layers_of(model)),
        hidden_size=embedding.shape[1],
        **_attention_sizes(text),
        intermediate_size=max(linear.out_features for linear in linears if linear.role != "attention"),
        vocab_size=embedding.shape[0],
        context_length=next((int(size) for size in _found(text, _CONTEXT_LENGTHS)), _ENDLESS_CONTEXT),
        tied_head=tied,
        head_bias=head.bias is not None,
        linears=linears,
        norm_parameters=inside - counted,  # and all else
        outside_parameters=sum(parameters.values()) - inside,
        score_softcap=getattr(text, "attn_logit_softcapping", None),
        attention_sinks=any(name.endswith(".sinks") for name in parameters),
        measured=_activations(config),
    )


def _attention_sizes(config: PretrainedConfig) -> dict[str, int]:
    """Of a model without attention one head as wide as its hidden states stands for it.

    Where layers differ the widest counts: transformers answers for Gemma 4's one by one.
    """
    differing = getattr(config, "per_layer_config", None) if getattr(config, "is_heterogeneous", False) else None
    sizes = [_layer_attention_sizes(layer) for layer in differing or [config]]
    return {size: max(layer[size] for layer in sizes) for size in sizes[0]}


def _layer_attention_sizes(config: PretrainedConfig) -> dict[str, int]:
    heads = next((int(size) for size in _found(config, ("num_attention_heads",))), 1)
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    key_value_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    return {"heads": heads, "query_size": heads * head_dim, "key_value_size": key_value_heads * head_dim}


def _found(config: PretrainedConfig, names: tuple[str, ...]) -> Iterator[int]:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            yield value


def _modules(model: PreTrainedModel, part: TextPart, head: nn.Module) -> Iterator[Linear]:
    """Every kind of matrix that is a module, with how often it occurs."""
    adaptable = set(adaptable_linears(model))
    kinds: Counter[tuple[str, Role, int, int, bool, bool]] = Counter()
    for path, module in model.named_modules():
        if not isinstance(module, nn.Linear | Conv1D) or module is head or not part.has(path):
            continue
        outward, inward = module.weight.shape if isinstance(module, nn.Linear) else reversed(module.weight.shape)
        has_bias = module.bias is not None
        kinds[path.rsplit(".", 1)[-1], role_of(path), inward, outward, has_bias, path in adaptable] += 1
    for (name, role, inward, outward, bias, can_adapt), copies in kinds.items():
        yield Linear(
            name=name,
            role=role,
            in_features=inward,
            out_features=outward,
            copies=copies,
            bias=bias,
            adaptable=can_adapt,
        )


def _experts(model: PreTrainedModel, part: TextPart, config: PretrainedConfig) -> Iterator[Linear]:
    """Matrices of experts that are stacked in one bare parameter: [experts, out, in]."""
    active = next(_found(config, _ACTIVE_EXPERTS), 1)
    adaptable = set(expert_parameters(model))
    kinds: Counter[tuple[str, int, int, int, bool]] = Counter()
    for path, parameter in model.named_parameters():
        if parameter.ndim == 3 and part.has(path):
            kinds[path.rsplit(".", 1)[-1], *parameter.shape, path in adaptable] += 1
    for (name, experts, outward, inward, can_adapt), layers in kinds.items():
        yield Linear(
            name=name,
            role="expert",
            in_features=inward,
            out_features=outward,
            copies=layers * experts,
            active_copies=layers * min(active, experts),
            module=False,
            adaptable=can_adapt,
        )


def _activations(config: dict[str, Any]) -> MeasuredActivations | None:
    """Bytes that one layer saves for one token, by what learns and in which width.

    None for a class whose layers cannot run without values, such as one that reads numbers off its weights: the
    planner's formulas then go by its matrices.
    """
    try:
        return _counted(config)
    except Exception:  # whatever a foreign class raises on the meta device
        return None


def _counted(config: dict[str, Any]) -> MeasuredActivations:
    def per_token(method: str, precision: str) -> float:
        case = Case(config, method=method, precision=precision, tokens=_TOKENS, rank=MEASURED_RANK)
        return counted_bytes_per_token(case)

    return MeasuredActivations(
        full_16bit=per_token("full", "bf16"),
        full_32bit=per_token("full", "fp32"),
        lora_16bit=per_token("lora", "bf16"),
        lora_32bit=per_token("lora", "fp32"),
    )


if __name__ == "__main__":
    sys.exit(main())
