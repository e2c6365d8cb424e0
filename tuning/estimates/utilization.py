"""Model FLOPs utilisation: how much of a device's rate a run turns into work that the training needs.

Only needed work counts: no recomputation of activations, no padding, and the output head on supervised tokens alone.
Frozen weights cost 4 operations a token (forward, and passing the gradient on), learning ones 6: counting 6 for all of
them would flatter LoRA by half.
"""

from dataclasses import dataclass
from typing import NamedTuple

from tunesmith.tuning.hardware import Gpu
from tunesmith.tuning.hardware_facts.gpu_table import UNKNOWN_GPU
from tunesmith.tuning.hardware_facts.gpus import rates_of
from tunesmith.tuning.models.shape import ModelShape


@dataclass(frozen=True, slots=True)
class StepWork:
    """One optimizer step over the global batch. `squared_lengths` sums the squared lengths of all sequences."""

    tokens: int
    supervised_tokens: int
    squared_lengths: int


class FlopRates(NamedTuple):
    """Floating-point operations for each token, each token that is learned, and each squared token of a sequence."""

    token: int
    supervised_token: int
    squared_token: int


def flop_rates(shape: ModelShape, *, adapter_parameters: int | None) -> FlopRates:
    """What training needs; `adapter_parameters` is None when every weight learns.

    A weight costs 2 forward, 2 to pass the gradient on and, if it learns, 2 for its own gradient. Causal attention
    costs 2 x query size x length squared forward (two products over half the square) and twice that backward, in each
    layer.
    """
    passes = 3 if adapter_parameters is None else 2
    return FlopRates(
        token=2 * passes * shape.active_linear_weights + 6 * (adapter_parameters or 0),
        supervised_token=2 * passes * shape.vocab_size * shape.hidden_size,
        squared_token=6 * shape.query_size * shape.layers,
    )


def training_flops(shape: ModelShape, work: StepWork, *, adapter_parameters: int | None) -> float:
    """Floating-point operations that one step needs."""
    rates = flop_rates(shape, adapter_parameters=adapter_parameters)
    amounts = (work.tokens, work.supervised_tokens, work.squared_lengths)
    return float(sum(rate * amount for rate, amount in zip(rates, amounts, strict=True)))


def data_sheet_flops_per_second(gpu: Gpu) -> float | None:
    """Dense 16-bit rate of a GPU that we have a data sheet of, without sparsity."""
    known = rates_of(gpu)
    return None if known is UNKNOWN_GPU else known.matmul_tflops * 1e12
