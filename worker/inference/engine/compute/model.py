"""The base model, changed so that rows of many sequences and adapters go through it together, each as if alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import JobFailure
from tunesmith.worker.inference.engine import memory
from tunesmith.worker.inference.engine.adapters.files import AdapterWeights, Base
from tunesmith.worker.inference.engine.compute import attention
from tunesmith.worker.inference.engine.compute.attention import Span, Spans, WrittenRows
from tunesmith.worker.inference.engine.compute.cache import BLOCK_TOKENS, CacheShape, KeyValueCache
from tunesmith.worker.inference.engine.compute.embedding import halve_embedding
from tunesmith.worker.inference.engine.compute.products import SteadyProducts, replace_linears
from tunesmith.worker.inference.engine.compute.thin import Lane, Piece, ThinProducts
from tunesmith.worker.train.failures import user_error
from tunesmith.worker.train.models.model import load_plainly
from tunesmith.worker.train.models.own_attention import use_attention
from tunesmith.worker.train.models.text_part import TextPart

TRIAL_TOKENS = 41  # a whole block, a begun one, and then written tokens
TRIAL_WRITTEN = 3
MOST_RELATIVE_DIFFERENCE = 1e-3  # of logits, from the library's own in another order of sums


@dataclass(frozen=True)
class Row:
    """A written token that is to be gone on from."""

    token: int
    cache: KeyValueCache
    lane: Lane | None


@dataclass(frozen=True)
class Block:
    """Tokens of a prompt, at most `BLOCK_TOKENS`, that begin where the cache ends, at a multiple of it."""

    tokens: Sequence[int]
    cache: KeyValueCache
    weights: AdapterWeights | None
    is_last: bool  # of its prompt: the model says what comes next


class BatchModel:
    """One base in memory. Not to be called by two threads at once."""

    def __init__(self, model: PreTrainedModel, *, folder: Path) -> None:
        expected = _expected(model)
        text = model.config.get_text_config()
        self.context_tokens = int(getattr(text, "max_position_embeddings", None) or 2048)
        self.vocabulary = int(text.vocab_size)
        self._model: Any = model
        self._products, self.thin = SteadyProducts(), ThinProducts()
        self._refuse_unknown_angles()
        linears = _linears(model)
        made = replace_linears(model, linears, products=self._products)
        head = model.get_output_embeddings()
        linears = [name for name in linears if made[name] is not head]
        for name in linears:
            made[name].thin = self.thin
        halve_embedding(model)
        self.base = Base(folder, {name: (made[name].out_features, made[name].in_features) for name in linears})
        attention.register()
        use_attention(model, attention.NAME)
        self.shape = _cache_shape(model)
        self._try(expected)
        memory.give_back()

    @classmethod
    def load(cls, folder: Path) -> BatchModel:
        """From a model folder, in fp32 on the CPU.

        Raises:
            JobFailure: `broken_model`, or `model_not_supported` by this engine.
        """
        return cls(load_plainly(folder, dtype=torch.float32).eval(), folder=folder)

    @property
    def is_steady(self) -> bool:
        """Whether every product went the quick way."""
        return not self._products.in_pieces

    @torch.inference_mode()
    def compute(self, rows: Sequence[Row], blocks: Iterable[Block]) -> torch.Tensor:
        """Logits [asked, vocabulary] in fp32: of every row, then of every block that is the last of its prompt.

        The caches grow by what was computed.
        """
        blocks = list(blocks)
        spans, pieces, asked = [], [], list(range(len(rows)))
        tokens, positions = [row.token for row in rows], [row.cache.tokens for row in rows]
        written = WrittenRows([row.cache for row in rows])
        for block in blocks:
            first, count, position = len(tokens), len(block.tokens), block.cache.tokens
            spans.append(Span(block.cache, first, count, position))
            tokens.extend(block.tokens)
            positions.extend(range(position, position + count))
            block.cache.tokens += count  # blocks of one prompt may follow each other in one batch
            if block.weights is not None:
                pieces.append(Piece(first, first + count, block.weights))
            if block.is_last:
                asked.append(len(tokens) - 1)
        self.thin.begin([row.lane for row in rows], pieces)
        logits = self._forward(tokens, positions, spans=Spans(written, spans), asked=asked)
        for row in rows:
            row.cache.tokens += 1
        return logits

    def _forward(self, tokens: list[int], positions: list[int], *, spans: Spans, asked: list[int]) -> torch.Tensor:
        made = self._model(
            input_ids=torch.tensor([tokens]),
            position_ids=torch.tensor([positions]),
            use_cache=False,
            logits_to_keep=torch.tensor(asked, dtype=torch.long),
            spans=spans,
        )
        return made.logits[0].float()

    def _refuse_unknown_angles(self) -> None:
        """Angles by the longest sequence of a batch would let neighbours change each other."""
        kinds = {str(getattr(module, "rope_type", "")) for module in self._model.modules()}
        by_length = [kind for kind in kinds if "dynamic" in kind or "longrope" in kind]
        if by_length:
            raise _unsupported(f"its rotary angles follow the length of a batch ({by_length[0]})")

    def _try(self, expected: torch.Tensor) -> None:
        """A random text, as a prompt and some written tokens, has the logits that the model's own class gives it."""
        tokens = _trial_tokens(self.vocabulary).tolist()
        cache = KeyValueCache(self.shape, tokens=len(tokens))
        prompt = tokens[: TRIAL_TOKENS - TRIAL_WRITTEN]
        try:
            for start in range(0, len(prompt), BLOCK_TOKENS):
                piece = prompt[start : start + BLOCK_TOKENS]
                is_last = start + BLOCK_TOKENS >= len(prompt)
                found = [self.compute([], [Block(piece, cache, None, is_last=is_last)])][-1:]
            for token in tokens[len(prompt) :]:
                found.append(self.compute([Row(token, cache, None)], []))
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise _unsupported(
                f"its class cannot be computed in parts ({type(error).__name__}: {error!s:.120})"
            ) from error
        difference = (torch.cat(found) - expected).abs().max() / expected.abs().max()
        if not difference <= MOST_RELATIVE_DIFFERENCE:
            raise _unsupported(f"its logits in parts differ from its own by {difference:.1%}")


def _linears(model: PreTrainedModel) -> list[str]:
    """Full names of the linear modules of the text part, the output head among them."""
    text = TextPart(model)
    return [
        name
        for name, module in model.named_modules()
        if (type(module) is nn.Linear or type(module).__name__ == "Conv1D") and text.has(name)
    ]


def _trial_tokens(vocabulary: int) -> torch.Tensor:
    return torch.randint(0, vocabulary, (TRIAL_TOKENS,), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def _expected(model: Any) -> torch.Tensor:
    """Of the trial's tokens, after its prompt and each written one, by the model's own class."""
    tokens = _trial_tokens(int(model.config.get_text_config().vocab_size))
    try:
        logits = model(input_ids=tokens[None], use_cache=False).logits[0, -TRIAL_WRITTEN - 1 :].float()
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _unsupported(f"its class does not take a text alone ({type(error).__name__}: {error!s:.120})") from error
    if not logits.isfinite().all():
        raise user_error(
            ErrorCode.MODEL_GIVES_NO_NUMBERS,
            "The model's logits for a random text are not finite.",
            hint="Register the model again: its weights are damaged.",
            param="model",
        )
    return logits


def _cache_shape(model: PreTrainedModel) -> CacheShape:
    """As its attentions will ask for it."""
    text = model.config.get_text_config()
    heads = int(getattr(text, "num_key_value_heads", None) or text.num_attention_heads)
    size = int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    return CacheShape(layers=int(text.num_hidden_layers), heads=heads, key_size=size, value_size=size)


def _unsupported(reason: str) -> JobFailure:
    failure = user_error(
        ErrorCode.MODEL_NOT_SUPPORTED,
        f"This engine cannot serve the model: {reason}.",
        hint="Serve it with vLLM.",
        param="model",
    )
    assert isinstance(failure, JobFailure)  # noqa: S101 - for the type checker
    return failure
