"""`python -m worker.train.profiling.shape CONFIG_FILE`: the shape of a model family without formulas.

Nothing of the model is loaded: it is built on the meta device, its parameters are counted at full depth, and what its
layers save for the backward pass at 2 and 4 layers. Prints the shape as JSON; a reason, as JSON on stderr.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worker.train import environment  # noqa: F401 - before torch

import torch  # isort: skip
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.pytorch_utils import Conv1D

from tuning.linears import Linear, Role
from tuning.shape import MEASURED_RANK, MeasuredActivations, ModelShape
from worker.train.profiling.counting import Case, layer_bytes

_TOKENS = 256


def main() -> int:
    """Print the shape, or the reason why there is none."""
    try:
        config = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
        print(measure_shape(config).model_dump_json())
    except Exception as error:  # whatever a foreign model class raises on the meta device
        family = config.get("model_type") if isinstance(config, dict) else None
        reason = _reason(error)
        message = f"The model family {family!r} cannot be measured: {reason}"
        hint = "A newer transformers release may know it. Models that bring code of their own are not trained here."
        print(json.dumps({"message": message, "code": "unknown_model_family", "hint": hint}), file=sys.stderr)
        return 1
    return 0


def _reason(error: Exception) -> str:
    text = str(error).strip()
    if isinstance(error, TypeError) and "segments" in text:
        return "its layers tell the attention nothing of packed rows, so the trainer cannot train it."
    return text.splitlines()[0][:200] if text else type(error).__name__


def measure_shape(config: dict[str, Any]) -> ModelShape:
    """The shape of the model that `transformers` builds from this config.

    Raises:
        ValueError, AttributeError, ...: `transformers` does not know it, or it is no causal language model that can be
            built and run without weights.
    """
    known = AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(known, dtype=torch.bfloat16)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    layers, heads = int(known.num_hidden_layers), int(known.num_attention_heads)
    head_dim = int(getattr(known, "head_dim", None) or known.hidden_size // heads)
    linears = (*_modules(model, head), *_experts(model, known))
    tied = head.weight is embedding
    counted = sum(linear.weights + linear.biases for linear in linears)
    counted += embedding.numel() * (1 if tied else 2) + (embedding.shape[0] if head.bias is not None else 0)
    return ModelShape(
        family=known.model_type,
        layers=layers,
        hidden_size=embedding.shape[1],
        query_size=heads * head_dim,
        key_value_size=int(getattr(known, "num_key_value_heads", None) or heads) * head_dim,
        heads=heads,
        intermediate_size=max(linear.out_features for linear in linears if linear.role != "attention"),
        vocab_size=embedding.shape[0],
        context_length=_context_length(known),
        tied_head=tied,
        head_bias=head.bias is not None,
        linears=linears,
        norm_parameters=sum(parameter.numel() for parameter in model.parameters()) - counted,  # and all else
        score_softcap=getattr(known, "attn_logit_softcapping", None),
        attention_sinks=any(name.endswith(".sinks") for name, _ in model.named_parameters()),
        measured=_activations(config),
    )


def _context_length(known: PretrainedConfig) -> int:
    """Families that count no positions, such as BLOOM, set no bound; the planner's is taken."""
    return int(getattr(known, "max_position_embeddings", None) or getattr(known, "seq_length", None) or 2048)


def _modules(model: nn.Module, head: nn.Module) -> Iterator[Linear]:
    """Every kind of matrix that is a module, with how often it occurs."""
    kinds: Counter[tuple[str, Role, int, int, bool]] = Counter()
    for path, module in model.named_modules():
        if not isinstance(module, nn.Linear | Conv1D) or module is head:
            continue
        role: Role = "attention" if "attn" in path or "attention" in path else "mlp"
        outward, inward = module.weight.shape if isinstance(module, nn.Linear) else reversed(module.weight.shape)
        kinds[path.rsplit(".", 1)[-1], role, inward, outward, module.bias is not None] += 1
    for (name, role, inward, outward, bias), copies in kinds.items():
        yield Linear(name=name, role=role, in_features=inward, out_features=outward, copies=copies, bias=bias)


def _experts(model: nn.Module, config: PretrainedConfig) -> Iterator[Linear]:
    """Matrices of experts that are stacked in one bare parameter: [experts, out, in]."""
    active = int(getattr(config, "num_experts_per_tok", None) or 1)
    for path, parameter in model.named_parameters():
        if parameter.ndim == 3:
            experts, outward, inward = parameter.shape
            yield Linear(
                name=path.rsplit(".", 1)[-1],
                role="expert",
                in_features=inward,
                out_features=outward,
                copies=experts,
                active_copies=min(active, experts),
                module=False,
            )


def _activations(config: dict[str, Any]) -> MeasuredActivations:
    """Bytes that one layer saves for one token, by what learns and in which width."""

    def per_token(method: str, precision: str) -> float:
        case = Case(config, method=method, precision=precision, tokens=_TOKENS, rank=MEASURED_RANK)
        return layer_bytes(case, shallow=2, deep=4) / _TOKENS

    return MeasuredActivations(
        full_16bit=per_token("full", "bf16"),
        full_32bit=per_token("full", "fp32"),
        lora_16bit=per_token("lora", "bf16"),
        lora_32bit=per_token("lora", "fp32"),
    )


if __name__ == "__main__":
    sys.exit(main())
