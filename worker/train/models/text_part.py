"""The part of a model that works on text: all of most models, the language model inside of one that also sees."""

from typing import cast

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


def decoder_of(model: PreTrainedModel) -> nn.Module:
    """The layers that turn tokens into hidden states, without the output head."""
    decoder: nn.Module = model
    head = model.get_output_embeddings()
    while (inner := _decoder_inside(decoder)) not in (None, decoder, head):
        decoder = inner
    return decoder if decoder is not model else cast("nn.Module", model.base_model)


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """The layers of the decoder, the first one first: those that transformers marks, else its longest list."""
    decoder = decoder_of(model)
    marked = {name: part for name, part in decoder.named_modules() if isinstance(part, GradientCheckpointingLayer)}
    outermost = [part for name, part in marked.items() if not any(name.startswith(f"{other}.") for other in marked)]
    lists = [list(part) for part in decoder.modules() if isinstance(part, nn.ModuleList)]
    return outermost or max(lists, key=len, default=[])


def _decoder_inside(module: nn.Module) -> nn.Module | None:
    """As transformers names it; Llama 4 names a whole language model, whose layers are its `model`."""
    inner = getattr(module, "get_decoder", lambda: None)()
    if inner is module or inner is None:
        inner = getattr(module, "model", None) if hasattr(module, "lm_head") else None
    return inner if isinstance(inner, nn.Module) else None


class TextPart:
    """Knows which modules and parameters belong to the decoder or to the output head, by their names."""

    def __init__(self, model: PreTrainedModel) -> None:
        parts = [decoder_of(model), model.get_output_embeddings()]
        names = [name for name, module in model.named_modules() if any(module is part for part in parts)]
        self._prefixes = tuple(f"{name}." if name else "" for name in names)

    def has(self, name: str) -> bool:
        """Whether a module or parameter of this name is part of it."""
        return f"{name}.".startswith(self._prefixes)
