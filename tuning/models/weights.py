"""Whether a model's config.json and the tensors in its files are of one model, told by names and shapes alone."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.models import families
from tunesmith.tuning.models.shape import ModelShape

Shapes = Mapping[str, Sequence[int]]

_EMBEDDINGS = ("embed_tokens.weight", "embed_in.weight", "wte.weight")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.")
_TEXT_PART = "language_model"  # in the names of a model that sees too


def check_weights(config: Mapping[str, Any], tensors: Shapes) -> None:
    """Compare sizes before anything is allocated by what config.json says; `tensors` are shapes by name.

    Families without formulas are left to their own class, and so are weights that are quantised already.

    Raises:
        InvalidRequest: `config_does_not_fit_weights`, with `param` naming the field as `config.<field>`.
    """
    shape = ModelShape.from_config(dict(config))
    if shape.family not in families.READERS:
        return
    ours = {name: sizes for name, sizes in tensors.items() if _TEXT_PART in name} or tensors
    _check_embedding(shape, ours)
    _check_layers(shape, ours)
    if "quantization_config" not in config:
        _check_linears(shape, ours)


def _check_embedding(shape: ModelShape, tensors: Shapes) -> None:
    for name, sizes in tensors.items():
        if not name.endswith(_EMBEDDINGS) or len(sizes) != 2:
            continue
        rows, width = sizes
        if rows != shape.vocab_size:
            raise _differs("vocab_size", f"says {shape.vocab_size:,}, but {name} has {rows:,} rows")
        if width != shape.hidden_size:
            raise _differs("hidden_size", f"says {shape.hidden_size:,}, but {name} is {width:,} wide")


def _check_layers(shape: ModelShape, tensors: Shapes) -> None:
    """More than config.json counts are left alone by its class: some models carry a layer to predict further ahead."""
    numbers = [int(found[1]) for name in tensors if (found := _LAYER.search(name))]
    if numbers and max(numbers) + 1 < shape.layers:
        raise _differs("num_hidden_layers", f"says {shape.layers:,}, but the files hold {max(numbers) + 1:,} layers")


def _check_linears(shape: ModelShape, tensors: Shapes) -> None:
    is_mixture = any(linear.role == "expert" for linear in shape.linears)
    for linear in shape.linears:
        if linear.role != "attention" and (linear.role != "mlp" or is_mixture):
            continue
        wanted = sorted((linear.out_features, linear.in_features))
        for name, sizes in tensors.items():
            if name.endswith(f".{linear.name}.weight") and _LAYER.search(name) and sorted(sizes) != wanted:
                field = "num_attention_heads" if linear.role == "attention" else "intermediate_size"
                raise _differs(
                    field,
                    f"and its neighbours make {name} {linear.out_features:,} x {linear.in_features:,}, "
                    f"but the file holds {' x '.join(f'{size:,}' for size in sizes)}",
                )


def _differs(field: str, problem: str) -> InvalidRequest:
    return InvalidRequest(
        f"The model's config and its weights are of different models: {field} {problem}.",
        code=ErrorCode.CONFIG_DOES_NOT_FIT_WEIGHTS,
        param=f"config.{field}",
        hint="Fetch config.json and the safetensors files again, from one source.",
    )
