"""Where the segments of a packed batch begin and end: prepared once per batch, used by every layer.

Everything is computed on the host from the lengths; no kernel ever asks the device for a value.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch

from tunesmith.tuning.plan import Attention
from tunesmith.worker.train.attention.document_mask import document_mask
from tunesmith.worker.train.device_copy import to_device

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


@dataclass(frozen=True)
class Scores:
    """How a layer turns products of queries and keys into weights, beside the softmax.

    scale: of the products; window: how many tokens back a token sees, itself included, None is all of its segment;
    softcap: scores become softcap * tanh(score / softcap) (Gemma 2, arXiv 2408.00118); sinks: one more score a head
    [heads], whose weight goes nowhere (attention sinks, arXiv 2309.17453, as GPT-OSS learns them).
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None


@dataclass(frozen=True)
class Segments:
    """Bounds of the segments of one packed batch, and the kernel that attends within them.

    lengths: tokens of each segment; cumulative: int32 [segments + 1] on the device; numbers: int32 [tokens], which
    segment a token is of; longest: tokens.
    """

    lengths: tuple[int, ...]
    cumulative: torch.Tensor
    numbers: torch.Tensor
    longest: int
    attention: Attention
    _masks: dict[int | None, "BlockMask"] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, lengths: Sequence[int], *, device: torch.device) -> "Segments":
        """From the segments' lengths in their order, for a kernel that runs on any device of this kind."""
        bounds = to_device(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), device)
        numbers = torch.from_numpy(np.repeat(np.arange(len(lengths), dtype=np.int32), lengths))
        attention: Attention = "blocked" if device.type == "cpu" else "sdpa"
        return cls(
            lengths=tuple(lengths),
            cumulative=bounds,
            numbers=to_device(numbers, device),
            longest=max(lengths),
            attention=attention,
        )

    def through(self, attention: Attention) -> "Segments":
        """The same segments for another kernel."""
        return replace(self, attention=attention)

    def block_mask(self, window: int | None) -> "BlockMask":
        """FlexAttention's mask, built by the first layer that asks and kept for the others."""
        if window not in self._masks:
            self._masks[window] = document_mask(self.lengths, window=window, device=self.cumulative.device)
        return self._masks[window]
