"""Embeddings in half the memory where that loses nothing: models are published in bf16 and computed here in fp32.

An output head that is tied to the embedding is laid out for its product, so that the embedding is a copy beside it.
"""

import torch
from torch import nn
from torch.nn.functional import embedding
from transformers import PreTrainedModel


class HalvedEmbedding(nn.Module):
    """Rows of a table in bf16, given out in fp32: the very numbers of the table in fp32."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self._table = table  # no parameter: a model's own type is that of its first one

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[...] to [..., size]."""
        return embedding(tokens, self._table).float()


def halve_embedding(model: PreTrainedModel) -> bool:
    """Halve a plain input embedding if all of its numbers are bf16's; returns whether it was."""
    module = model.get_input_embeddings()
    if type(module) is not nn.Embedding:
        return False
    table = module.weight.detach()
    halved = table.bfloat16()
    if table.dtype != torch.float32 or module.max_norm is not None or not torch.equal(halved.float(), table):
        return False
    model.set_input_embeddings(HalvedEmbedding(halved))
    return True
