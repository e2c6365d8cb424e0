"""What the engine holds beside its base: an adapter lies in memory once, and a tied embedding costs half."""

import random
from collections.abc import Callable

import torch
from torch import nn

from tests.inference.engine.asking import Asker, random_prompt
from tunesmith.worker.inference.engine.adapters.residents import Adapter
from tunesmith.worker.inference.engine.compute.embedding import HalvedEmbedding, halve_embedding
from tunesmith.worker.inference.engine.compute.model import BatchModel
from tunesmith.worker.inference.engine.compute.products import Stack


class WithEmbedding(nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(weight)

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def set_input_embeddings(self, module: nn.Module) -> None:
        self.table = module


def own_bytes(adapter: Adapter) -> int:
    """Of the storages that hold an adapter and nothing else."""
    assert adapter.weights is not None
    tensors = [tensor for side in (adapter.weights.down, adapter.weights.up) for tensor in side.values()]
    return sum(tensor.nbytes for tensor in tensors if tensor.untyped_storage().nbytes() == tensor.nbytes)


def test_an_adapter_lies_in_its_lane_while_it_is_asked_and_outside_when_another_takes_it(
    new_asker: Callable[..., Asker],
) -> None:
    asker, source = new_asker(sequences=2), random.Random(0)
    names = ["a0", "a3", "a6", "a9"]  # of one rank
    held = {name: asker.engine.residents.hold(name) for name in names}
    prompts = {name: random_prompt(source) for name in names}
    first = {name: asker.ask(prompts[name], adapter=name) for name in names}
    for name in names:
        asker.begin(prompts[name], adapter=name)
        asker.begin(prompts[name], adapter=name)
    asker.finish()
    inside = [name for name in names if own_bytes(held[name]) == 0]
    assert 1 <= len(inside) < len(names)
    assert all(own_bytes(held[name]) == held[name].bytes for name in names if name not in inside)
    again = {name: asker.ask(prompts[name], adapter=name) for name in names}
    assert [again[name].logprobs for name in names] == [first[name].logprobs for name in names]


def test_an_embedding_that_loses_nothing_is_halved() -> None:
    weight = torch.randn(40, 8).bfloat16().float()
    model, tokens = WithEmbedding(weight), torch.tensor([[3, 39, 0]])
    assert halve_embedding(model)  # type: ignore[arg-type]
    assert isinstance(model.table, HalvedEmbedding)
    assert torch.equal(model.table(tokens), weight[tokens])


def test_an_embedding_with_finer_numbers_stays_whole() -> None:
    model = WithEmbedding(torch.full((4, 8), 1 + 2**-12))
    assert not halve_embedding(model)  # type: ignore[arg-type]
    assert type(model.table) is nn.Embedding


def test_modules_that_are_fed_together_share_a_product_and_others_are_computed_anew() -> None:
    weight, asked = torch.randn(10, 6), []

    def product(rows: torch.Tensor) -> torch.Tensor:
        asked.append(len(rows))
        return rows @ weight.T

    stack = Stack(product, in_features=6, sizes=[4, 6])
    together, apart = torch.randn(3, 6), torch.randn(3, 6)
    found = [stack.part(0, together, together), stack.part(1, together, together)]
    assert torch.equal(torch.cat(found, dim=1), together @ weight.T)
    assert len(asked) == 1
    assert torch.equal(stack.part(0, apart, apart), apart @ weight[:4].T)
    assert torch.equal(stack.part(1, together, together), (together @ weight.T)[:, 4:])
    assert torch.equal(stack.part(1, together, together), (together @ weight.T)[:, 4:])
    assert len(asked) == 4


def test_the_model_has_four_products_a_layer(model: BatchModel) -> None:
    modules = dict(model._model.named_modules())
    layer = {name: modules[f"model.layers.0.{name}"]._stack for name in ("self_attn.q_proj", "self_attn.v_proj")}
    assert layer["self_attn.q_proj"] is layer["self_attn.v_proj"]
    assert modules["model.layers.0.mlp.gate_proj"]._stack is modules["model.layers.0.mlp.up_proj"]._stack
