"""Packing by token budget: the rows of one optimizer step become as few full micro-steps as their tokens need.

Segments stand behind one another without padding. Positions restart in each, attention stays within each
(`worker.train.kernels.attention`), and the loss is a sum over supervised tokens that the loop divides by their number
in the whole global batch: the split changes no gradient.
"""

import random
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from worker.train.data.rows import Rows
from worker.train.kernels.segments import Segments, to_device


@dataclass(frozen=True)
class PackedBatch:
    """One micro-step.

    input_ids, position_ids: int64 [1, tokens]; target_positions: int64 [targets], where the hidden state that
    predicts sits; labels: int64 [targets]; target_sequences: int64 [targets], which sequence of the batch a target
    belongs to; rows: indices into `Rows`.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    target_positions: torch.Tensor
    labels: torch.Tensor
    target_sequences: torch.Tensor
    segments: Segments
    rows: tuple[int, ...]
    reference: torch.Tensor | None = None

    @property
    def tokens(self) -> int:
        """Tokens in the batch, none of them padding."""
        return self.input_ids.shape[1]

    @property
    def supervised_tokens(self) -> int:
        """Tokens that carry loss."""
        return self.labels.shape[0]


def epoch_order(rows: int, *, seed: int, epoch: int) -> list[int]:
    """The order of all rows in one epoch (the first is 0), from seed and epoch alone: a resumed run finds it again."""
    order = list(range(rows))
    random.Random(f"{seed}:{epoch}").shuffle(order)  # noqa: S311 - an order, not a secret
    return order


def steps_per_epoch(rows: int, *, rows_per_step: int) -> int:
    """Optimizer steps that see every row once; the last may see fewer rows."""
    return -(-rows // rows_per_step)


def rows_of_step(step: int, *, rows: int, rows_per_step: int, seed: int) -> list[int]:
    """Rows of optimizer step `step` (the first is 1)."""
    epoch, index = divmod(step - 1, steps_per_epoch(rows, rows_per_step=rows_per_step))
    return epoch_order(rows, seed=seed, epoch=epoch)[index * rows_per_step : (index + 1) * rows_per_step]


def plan_micro_steps(chosen: Sequence[int], lengths: np.ndarray, *, token_budget: int) -> list[list[int]]:
    """Best-fit decreasing: each row goes where it leaves the least room; one beyond the budget stands alone."""
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, bin), sorted
    for row in sorted(chosen, key=lambda row: (-int(lengths[row]), row)):
        needed = int(lengths[row])
        fit = next((place for place, (left, _) in enumerate(room) if left >= needed), None)
        if fit is None:
            bins.append([row])
            insort(room, (token_budget - needed, len(bins) - 1))
        else:
            left, index = room.pop(fit)
            bins[index].append(row)
            insort(room, (left - needed, index))
    return bins


def share_among(micro_steps: list[list[int]], lengths: np.ndarray, *, processes: int) -> list[list[list[int]]]:
    """Each process's micro-steps, the heaviest first to whoever has least to do."""
    shares: list[list[list[int]]] = [[] for _ in range(processes)]
    loads = [0] * processes
    weight = [sum(int(lengths[row]) for row in rows) for rows in micro_steps]
    for index in sorted(range(len(micro_steps)), key=lambda index: (-weight[index], index)):
        lightest = loads.index(min(loads))
        shares[lightest].append(micro_steps[index])
        loads[lightest] += weight[index]
    return shares


def pack(chosen: Sequence[int], rows: Rows, *, device: torch.device) -> PackedBatch:
    """Lay the chosen rows behind one another on `device`."""
    tokens, positions, predictors, labels, sequences = [], [], [], [], []
    lengths: list[int] = []
    start = 0
    for ids, marks in (pair for row in chosen for pair in rows.sequences(row)):
        targets = np.flatnonzero(marks[1:])  # the state at t predicts the token at t + 1
        tokens.append(ids)
        positions.append(np.arange(len(ids)))
        predictors.append(targets + start)
        labels.append(ids[1:][targets])
        sequences.append(np.full(len(targets), len(lengths)))
        lengths.append(len(ids))
        start += len(ids)
    return PackedBatch(
        input_ids=_on(device, tokens)[None],
        position_ids=_on(device, positions)[None],
        target_positions=_on(device, predictors),
        labels=_on(device, labels),
        target_sequences=_on(device, sequences),
        segments=Segments.of(lengths, device=device),
        rows=tuple(chosen),
        reference=None if rows.reference is None else to_device(torch.from_numpy(rows.reference[list(chosen)]), device),
    )


def _on(device: torch.device, arrays: list[np.ndarray]) -> torch.Tensor:
    return to_device(torch.from_numpy(np.concatenate(arrays).astype(np.int64)), device)
