"""Output head and cross-entropy in one pass, on supervised tokens only and in chunks: the full logits never exist.

The gradient of a chunk is computed while its logits are at hand, so the backward pass multiplies by a scalar and
nothing more. Matmuls run in the model's dtype, the log-sum-exp in fp32. The same idea as Cut Cross-Entropy (arXiv
2411.09009), in plain PyTorch.
"""

from typing import Any, NamedTuple

import torch
from torch.utils.checkpoint import checkpoint

from tunesmith.tuning.engine import logits_chunk_tokens
from tunesmith.worker.train.kernels.elementwise import cross_entropy


class Head(NamedTuple):
    """The output projection. weight: [vocabulary, hidden]; `softcap` bounds logits to its magnitude by tanh."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    softcap: float | None = None


class LossSums(NamedTuple):
    """Sums over supervised tokens. loss: fp32 scalar with gradient; correct: int64 scalar, argmax hits."""

    loss: torch.Tensor
    correct: torch.Tensor


def summed_cross_entropy(hidden: torch.Tensor, labels: torch.Tensor, head: Head) -> LossSums:
    """Negative log-likelihood of `labels` [targets], summed, given `hidden` [targets, hidden size]."""
    loss, correct = _SummedCrossEntropy.apply(hidden, head.weight, head.bias, labels, head.softcap)
    return LossSums(loss, correct)


class TokenScores(NamedTuple):
    """Of each label: log-probability fp32 [targets], and whether it is the likeliest, bool [targets]."""

    log_probabilities: torch.Tensor
    correct: torch.Tensor


def token_scores(hidden: torch.Tensor, labels: torch.Tensor, head: Head) -> TokenScores:
    """What the model thinks of each label, without a gradient; in chunks as `summed_cross_entropy`."""
    size = _chunk_tokens(hidden, head.weight, is_learning=False)
    scores, hits = [], []
    for states, chosen in zip(hidden.split(size), labels.split(size), strict=True):
        logits = logits_of(states, head)
        scores.append(torch.log_softmax(logits, dim=-1, dtype=torch.float32).gather(1, chosen[:, None]).squeeze(1))
        hits.append(logits.max(dim=-1).indices == chosen)
    return TokenScores(torch.cat(scores), torch.cat(hits))


def logits_of(hidden: torch.Tensor, head: Head) -> torch.Tensor:
    """All logits [tokens, vocabulary] of `hidden` [tokens, hidden size]."""
    logits = torch.nn.functional.linear(hidden, head.weight, head.bias)
    return head.softcap * torch.tanh(logits / head.softcap) if head.softcap else logits


def token_log_probabilities(hidden: torch.Tensor, labels: torch.Tensor, head: Head) -> torch.Tensor:
    """Log-probability of each label, fp32 [targets], with gradient; logits are rebuilt in the backward pass."""
    size = _chunk_tokens(hidden, head.weight, is_learning=False)
    parts = [
        checkpoint(_log_probabilities, states, chosen, head.weight, head.bias, head.softcap, use_reentrant=False)
        for states, chosen in zip(hidden.split(size), labels.split(size), strict=True)
    ]
    return torch.cat(parts)


def _log_probabilities(
    hidden: torch.Tensor,
    labels: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    softcap: float | None,
) -> torch.Tensor:
    logits = logits_of(hidden, Head(weight, bias, softcap))
    return torch.log_softmax(logits, dim=-1, dtype=torch.float32).gather(1, labels[:, None]).squeeze(1)


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        softcap: float | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and hits; keeps the gradients of hidden states, weight and bias for a unit gradient of the loss."""
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wants_bias else None
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
        size = _chunk_tokens(hidden, weight, is_learning=wants_weight)
        for start in range(0, len(labels), size):
            chunk = slice(start, start + size)
            logits = torch.nn.functional.linear(hidden[chunk], weight, bias)
            wants_gradient = grad_hidden is not None or grad_weight is not None
            more, hits = cross_entropy(logits, labels[chunk], softcap=softcap, wants_gradient=wants_gradient)
            loss += more
            correct += hits
            if not wants_gradient:
                continue
            if grad_hidden is not None:
                torch.mm(logits, weight, out=grad_hidden[chunk])
            if grad_weight is not None:
                grad_weight += logits.T @ hidden[chunk]
            if grad_bias is not None:
                grad_bias += logits.sum(dim=0, dtype=torch.float32)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    def backward(ctx: Any, grad_loss: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scale what the forward pass kept."""
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            None if grad_hidden is None else grad_hidden * grad_loss.to(grad_hidden.dtype),
            None if grad_weight is None else (grad_weight * grad_loss).to(weight_dtype),
            None if grad_bias is None else (grad_bias * grad_loss).to(bias_dtype),
            None,
            None,
        )


def _chunk_tokens(hidden: torch.Tensor, weight: torch.Tensor, *, is_learning: bool) -> int:
    return logits_chunk_tokens(device=hidden.device.type, vocab_size=weight.shape[0], is_learning=is_learning)
