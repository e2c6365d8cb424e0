"""What the model says to the same few held-out prompts at each evaluation, so that a person sees the answers change.

Each evaluation leaves one event with `data` {"step", "samples": [{"line", "prompt_end", "reference", "answer",
"finished"}]}: `line` of the file that the held-out rows are in, texts cut to a few hundred characters, and `finished`
false where the answer was still going on when its tokens or its time ran out.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from tunesmith.tuning.estimates.evaluation_time import (
    CHEAP_SECONDS,
    LARGEST_SHARE,
    LONGEST_PROMPT_TOKENS,
    LONGEST_SECONDS,
    SAMPLES,
    can_answer,
    most_answer_tokens,
)
from tunesmith.worker.train.data.rows import Rows
from tunesmith.worker.train.generation.generator import Generator
from tunesmith.worker.train.models.model import Learner
from tunesmith.worker.train.models.own_attention import attending, attention_for_generation
from tunesmith.worker.train.run import RunContext

SHOWN_CHARACTERS = 300
SHOWN_IN_MESSAGE = 60
PROMPT_TOKENS_OF_PLAIN_TEXT = 64


@dataclass(frozen=True)
class Prompt:
    """One held-out prompt as token ids, and what the data answers. `line` is of its file, the first is 1."""

    line: int
    ids: tuple[int, ...]
    reference: tuple[int, ...]


class Samples:
    """Asks the model as it stands. Draws no random number and leaves nothing behind but events."""

    def __init__(self, run: RunContext, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._run, self._clock = run, clock
        self._asked, self._seconds = 0, 0.0
        rows = run.validation_rows
        is_asked = rows is not None and can_generate(run)
        self._prompts = choose_prompts(rows, seed=run.plan.seed) if rows is not None and is_asked else []

    def record(self, learner: Learner, *, step: int, training_seconds: float | None = None) -> None:
        """One event with the answers after `step`. A model that cannot answer trains on, and is not asked again.

        `training_seconds` so far bound the time for answers; without them, at the ends of a run, it is asked anyway.
        """
        if not self._prompts or (training_seconds is not None and self._is_dear(training_seconds)):
            return
        began = self._clock()
        try:
            answers = self._answers(learner)
        except Exception as error:  # on the main process alone: raised, it would leave the others waiting
            self._prompts = []
            self._run.recorder.event(
                f"No sample answers: the model could not generate ({type(error).__name__}). Training goes on.",
                level="warn",
                step=step,
            )
            return
        samples = [
            _sample(prompt, answer, self._run.tokenizer) for prompt, answer in zip(self._prompts, answers, strict=True)
        ]
        self._run.recorder.event(_message(samples, step=step), step=step, samples=samples)
        self._asked, self._seconds = self._asked + 1, self._seconds + self._clock() - began

    def _is_dear(self, training_seconds: float) -> bool:
        return self._seconds > CHEAP_SECONDS * self._asked and self._seconds > LARGEST_SHARE * training_seconds

    def _answers(self, learner: Learner) -> list[dict[str, Any]]:
        longest = max(len(prompt.reference) for prompt in self._prompts)
        was_training = learner.training
        learner.eval()
        try:
            model = learner.causal_model
            with attending(model, attention_for_generation(model), afterwards=learner.attention_name):
                return Generator(model, self._run.tokenizer, ends=self._run.rows.notes.ends).complete(
                    [prompt.ids for prompt in self._prompts],
                    max_new_tokens=most_answer_tokens(longest),
                    max_seconds=LONGEST_SECONDS,
                )
        finally:
            learner.train(was_training)


def can_generate(run: RunContext) -> bool:
    """Whether this process holds the whole model and is the one that writes."""
    return run.is_main and can_answer(zero_stage=run.plan.zero_stage, sharded_base=run.plan.sharded_base)


def choose_prompts(rows: Rows, *, seed: int) -> list[Prompt]:
    """The same few rows for the same seed; those with prompts of bearable length first, longer ones keep their end."""
    order = list(range(len(rows)))
    random.Random(f"{seed}:samples").shuffle(order)  # noqa: S311 - a choice, not a secret
    lengths = rows.lengths()
    order.sort(key=lambda row: bool(lengths[row] > LONGEST_PROMPT_TOKENS))  # stable: the shuffle decides the rest
    return [prompt_of(rows, row) for row in sorted(order[:SAMPLES])]


def prompt_of(rows: Rows, row: int, *, most_tokens: int = LONGEST_PROMPT_TOKENS) -> Prompt:
    """Everything before the last supervised stretch, and that stretch; of a preference pair the preferred answer.

    A prompt of more than `most_tokens` keeps its end.
    Plain text is supervised from its start: there the first part is the prompt and the rest the reference.
    """
    ids, marks = next(rows.sequences(row))
    supervised = np.flatnonzero(marks)
    end = int(supervised[-1]) + 1
    gaps = np.flatnonzero(~marks[:end])
    start = int(gaps[-1]) + 1 if len(gaps) else 0
    if start <= 1:
        start = max(1, min(end // 2, PROMPT_TOKENS_OF_PLAIN_TEXT))
    first = max(0, start - most_tokens)
    return Prompt(int(rows.line_numbers[row]), tuple(ids[first:start].tolist()), tuple(ids[start:end].tolist()))


def _sample(prompt: Prompt, answer: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    asked = tokenizer.decode(prompt.ids, skip_special_tokens=True).strip()
    reference = tokenizer.decode(prompt.reference, skip_special_tokens=True).strip()
    return {
        "line": prompt.line,
        "prompt_end": asked if len(asked) <= SHOWN_CHARACTERS else f"...{asked[-SHOWN_CHARACTERS:]}",
        "reference": _cut(reference, SHOWN_CHARACTERS),
        "answer": _cut(answer["text"], SHOWN_CHARACTERS),
        "finished": answer["finished"],
    }


def _message(samples: list[dict[str, Any]], *, step: int) -> str:
    """The first of them in a line; all are in the event's data."""
    said, wanted = (_cut(" ".join(samples[0][key].split()), SHOWN_IN_MESSAGE) for key in ("answer", "reference"))
    return f"Sample answers at step {step}, line {samples[0]['line']}: {said!r}, reference {wanted!r}."


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[:characters]}..."
