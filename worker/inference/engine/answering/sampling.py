"""Which token comes next: from the model's logits for one sequence, by its own settings and its own random numbers."""

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

MOST_TOP_LOGPROBS = 20
_USUALLY_ENOUGH = 256  # of the likeliest tokens to hold top_p; sorting all of 49,152 takes 20 times as long


@dataclass(frozen=True)
class Sampling:
    """How one answer is drawn. `temperature` 0 takes the likeliest token; `top_k` 0 and `top_p` 1 leave all in."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    min_p: float = 0.0  # of the probability of the likeliest, under which a token is left out
    repetition_penalty: float = 1.0  # also of tokens of the prompt
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None  # None: nobody asked for log-probabilities


@dataclass(frozen=True)
class Drawn:
    """A token, with its log-probability under the model itself and those of the likeliest, if they were asked for."""

    token: int
    logprob: float | None = None
    likeliest: Sequence[tuple[int, float]] = ()


class NoNumbers(Exception):
    """The model's logits are not finite."""


class Sampler:
    """Draws for one sequence; what it draws depends on its seed and its logits alone."""

    def __init__(self, sampling: Sampling, *, seed: int, prompt: Sequence[int] = ()) -> None:
        self._sampling = sampling
        self._prompt = set(prompt)
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._written: Counter[int] = Counter()

    def draw(self, logits: torch.Tensor) -> Drawn:
        """From logits [vocabulary].

        Raises:
            NoNumbers: some are not finite.
        """
        if not _are_finite(logits):
            raise NoNumbers
        token = self._token(self._adjusted(logits))
        self._written[token] += 1
        if self._sampling.top_logprobs is None:
            return Drawn(token)
        logprobs = logits.log_softmax(-1)
        values, tokens = logprobs.topk(min(self._sampling.top_logprobs, len(logits)))
        likeliest = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
        return Drawn(token, float(logprobs[token]), likeliest)

    def _adjusted(self, logits: torch.Tensor) -> torch.Tensor:
        """With penalties for what was written already, and biases."""
        sampling = self._sampling
        is_repeating = sampling.repetition_penalty != 1
        if not (is_repeating or sampling.frequency_penalty or sampling.presence_penalty or sampling.logit_bias):
            return logits
        adjusted = logits.clone()
        if is_repeating:
            seen = torch.tensor(sorted(self._prompt | self._written.keys()), dtype=torch.long)
            adjusted[seen] = _less_likely(adjusted[seen], by=sampling.repetition_penalty)
        for token, count in self._written.items():
            adjusted[token] -= sampling.frequency_penalty * count + sampling.presence_penalty
        for token, bias in sampling.logit_bias.items():
            adjusted[token] += bias
        return adjusted

    def _token(self, logits: torch.Tensor) -> int:
        sampling = self._sampling
        if sampling.temperature == 0:
            return int(logits.argmax())
        scores = (logits - logits.max()).double() / sampling.temperature
        if sampling.min_p:
            scores = scores.masked_fill(scores < math.log(sampling.min_p), -math.inf)
        if sampling.top_k:
            scores, tokens = scores.topk(min(sampling.top_k, len(scores)))
            probabilities = scores.softmax(-1)
        elif sampling.top_p < 1:
            probabilities, tokens = _likeliest(scores.softmax(-1), share=sampling.top_p)
        else:
            return self._place(scores.softmax(-1))
        kept = _within(probabilities, share=sampling.top_p)
        return int(tokens[self._place(probabilities[:kept])])

    def _place(self, probabilities: torch.Tensor) -> int:
        """An index, each with its share of the sum."""
        summed = probabilities.cumsum(-1)
        place = int(torch.searchsorted(summed, self._random.random() * float(summed[-1]), right=True))
        return min(place, len(summed) - 1)


def _less_likely(logits: torch.Tensor, *, by: float) -> torch.Tensor:
    """As CTRL does (Keskar et al. 2019): nearer to nought above it, further below."""
    return torch.where(logits > 0, logits / by, logits * by)


def _are_finite(logits: torch.Tensor) -> bool:
    """By their sum, which is a tenth of the work; one that overflows is looked at again."""
    return math.isfinite(float(logits.sum())) or bool(logits.isfinite().all())


def _likeliest(probabilities: torch.Tensor, *, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """In falling order, as many as certainly hold `share`."""
    values, tokens = probabilities.topk(min(_USUALLY_ENOUGH, len(probabilities)))
    if float(values.sum()) < share:
        values, tokens = probabilities.sort(descending=True)
    return values, tokens


def _within(probabilities: torch.Tensor, *, share: float) -> int:
    """How many of them, in falling order, are the fewest that hold `share`; at least one."""
    return min(int((probabilities.cumsum(-1) < share).sum()) + 1, len(probabilities))
