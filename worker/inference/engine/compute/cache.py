"""Keys and values of one sequence, layer by layer, and the kept ones of prompts that may come again.

A prompt is computed in blocks of `BLOCK_TOKENS` that begin at multiples of it. So the keys and values of a token are
the same bits however much of its prompt was taken from an earlier one.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

BLOCK_TOKENS = 32
Layers = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class CacheShape:
    """Sizes of a model's keys and values."""

    layers: int
    heads: int
    key_size: int
    value_size: int
    dtype: torch.dtype = torch.float32

    @property
    def token_bytes(self) -> int:
        """Of one token in all layers."""
        return self.layers * self.heads * (self.key_size + self.value_size) * self.dtype.itemsize


class KeyValueCache:
    """Room for `tokens` tokens. The system gives memory as it is written, so that room costs little."""

    def __init__(self, shape: CacheShape, *, tokens: int) -> None:
        room = -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS
        self.keys = torch.empty(shape.layers, shape.heads, room, shape.key_size, dtype=shape.dtype)
        self.values = torch.empty(shape.layers, shape.heads, room, shape.value_size, dtype=shape.dtype)
        self.bytes = room * shape.token_bytes
        self.tokens = 0  # that are in it

    def with_next_token(self) -> tuple[Layers, Layers, Layers, Layers]:
        """Views by layer: keys and values up to the next token [1, heads, tokens, size], and its own [heads, size]."""
        end = self.tokens + 1
        keys, values = self.keys[:, None, :, :end], self.values[:, None, :, :end]
        return keys.unbind(0), values.unbind(0), keys[:, 0, :, -1].unbind(0), values[:, 0, :, -1].unbind(0)

    def block(self, start: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Copies of the keys and values of one block."""
        end = start + BLOCK_TOKENS
        return self.keys[:, :, start:end].clone(), self.values[:, :, start:end].clone()

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put a block behind what is there."""
        end = self.tokens + BLOCK_TOKENS
        self.keys[:, :, self.tokens : end] = keys
        self.values[:, :, self.tokens : end] = values
        self.tokens = end


class Prefixes:
    """Blocks of prompts, found by the adapter and every token up to their end; the longest unused go first."""

    def __init__(self, *, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._blocks: OrderedDict[bytes, tuple[torch.Tensor, torch.Tensor]] = OrderedDict()
        self.bytes = 0

    def fill(self, cache: KeyValueCache, prompt: Sequence[int], *, adapter: int) -> int:
        """Copy the longest known beginning into an empty cache; returns its tokens, fewer than the prompt has."""
        found = []
        for name in _names(prompt[:-1], adapter=adapter):
            if (block := self._blocks.get(name)) is None:
                break
            cache.append(*block)
            found.append(name)
        for name in reversed(found):  # a beginning is worth more than what follows it
            self._blocks.move_to_end(name)
        return cache.tokens

    def keep(self, cache: KeyValueCache, prompt: Sequence[int], *, adapter: int) -> None:
        """Remember the whole blocks of a prompt that was computed."""
        names = list(_names(prompt, adapter=adapter))
        for index, name in reversed(list(enumerate(names))):
            if name not in self._blocks:
                block = cache.block(index * BLOCK_TOKENS)
                self._blocks[name] = block
                self.bytes += _bytes(block)
            self._blocks.move_to_end(name)
        while self.bytes > self._most_bytes:
            self.bytes -= _bytes(self._blocks.popitem(last=False)[1])


def _names(prompt: Sequence[int], *, adapter: int) -> Iterator[bytes]:
    digest = hashlib.sha256(str(adapter).encode())
    for start in range(0, len(prompt) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        digest.update(repr(tuple(prompt[start : start + BLOCK_TOKENS])).encode())
        yield digest.digest()


def _bytes(block: tuple[torch.Tensor, torch.Tensor]) -> int:
    return sum(states.nbytes for states in block)
