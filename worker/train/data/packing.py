"""Packing by token budget: the rows of one optimizer step become as few full micro-steps as their tokens need.

Segments stand behind one another without padding. Positions restart in each, attention stays within each
(`worker.train.attention.packed`), and the loss is a sum over supervised tokens that the loop divides by their number
in the whole global batch: the split changes no gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
import torch

from tunesmith.worker.train.attention.segments import Segments
from tunesmith.worker.train.data.rows import Rows
from tunesmith.worker.train.device_copy import to_device


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


def plan_micro_steps(
    chosen: Sequence[int], lengths: np.ndarray, *, token_budget: int, together: bool = True
) -> list[list[int]]:
    """Best-fit decreasing: each row goes where it leaves the least room; one beyond the budget stands alone.

    Unless rows may go `together` all of them do, the longest first. Time grows with the number of rows and with nothing
    else: which room is the smallest that suffices is read off one long integer.
    """
    rows = np.asarray(chosen, dtype=np.int64)
    rows = rows[np.lexsort((rows, -lengths[rows]))]
    needs = lengths[rows].tolist()
    shortest = needs[-1] if needs else 0
    micro_steps: list[list[int]] = []
    roomy: dict[int, list[int]] = {}  # heaps of micro-steps by the tokens that each has room for
    rooms = 0  # bit n is set while a micro-step has room for exactly n tokens
    for row, needed in zip(rows.tolist(), needs, strict=True):
        sufficient = rooms >> needed
        if sufficient:
            room = needed + (sufficient & -sufficient).bit_length() - 1
            index = heappop(roomy[room])
            if not roomy[room]:
                rooms ^= 1 << room
        else:
            room, index = token_budget if together else 0, len(micro_steps)
            micro_steps.append([])
        micro_steps[index].append(row)
        left = room - needed
        if left >= shortest:
            heappush(roomy.setdefault(left, []), index)
            rooms |= 1 << left
    return micro_steps


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
