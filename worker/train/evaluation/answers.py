"""What a model answers to the last prompt of each row, greedily, and whether it is right."""

from dataclasses import dataclass

from tunesmith.tuning.evaluation import LONGEST_TEXT, EvaluationSpec
from tunesmith.tuning.planner.evaluation import ANSWERS_AT_ONCE
from tunesmith.tuning.scoring.scores import Judge, judge_of
from tunesmith.worker.train.evaluation.losses import Steps
from tunesmith.worker.train.generation.generator import Generator
from tunesmith.worker.train.generation.samples import Prompt, prompt_of
from tunesmith.worker.train.models.model import Learner
from tunesmith.worker.train.models.own_attention import attending, attention_for_generation
from tunesmith.worker.train.run import RunContext

_FEWEST_TOKENS = 32  # that an answer may have, however short the expected ones are


@dataclass(frozen=True)
class ScoredAnswer:
    """What was said, whether the model ended it itself, and whether it is right."""

    text: str
    finished: bool
    hit: bool


class Questions:
    """The prompts of a run's rows with what they expect, and how answers are scored."""

    def __init__(self, run: RunContext, evaluation: EvaluationSpec) -> None:
        """For an evaluation that has a score."""
        assert evaluation.score is not None  # noqa: S101 - for the type checker
        self._run, self._judge = run, judge_of(evaluation.score)
        self._prompts = [prompt_of(run.rows, row, most_tokens=run.shape.context_length) for row in range(len(run.rows))]
        longest = max(len(prompt.reference) for prompt in self._prompts)
        self._most_tokens = min(evaluation.max_answer_tokens, max(_FEWEST_TOKENS, 2 * longest))

    def texts(self, row: int) -> tuple[str, str]:
        """The end of the prompt and the expected answer, cut as they are kept."""
        prompt, expected = self._decoded(self._prompts[row])
        return prompt[-LONGEST_TEXT:], expected[:LONGEST_TEXT]

    def answers(self, learner: Learner, *, steps: Steps) -> list[ScoredAnswer]:
        """One per row, in their order.

        Raises:
            Stopped: on request.
        """
        found: dict[int, ScoredAnswer] = {}
        order = sorted(range(len(self._prompts)), key=lambda row: len(self._prompts[row].ids))
        model, at_once = learner.causal_model, ANSWERS_AT_ONCE[self._run.device.type]
        with attending(model, attention_for_generation(model), afterwards=learner.attention_name):
            speaker = Generator(model, self._run.tokenizer, ends=self._run.rows.notes.ends)
            for first in range(0, len(order), at_once):
                group = order[first : first + at_once]
                found |= self._answered(speaker, group)
                steps.done(len(group))
        return [found[row] for row in range(len(self._prompts))]

    def _answered(self, speaker: Generator, group: list[int]) -> dict[int, ScoredAnswer]:
        said = speaker.complete([self._prompts[row].ids for row in group], max_new_tokens=self._most_tokens)
        return {
            row: self._scored(row, answer["text"], answer["finished"]) for row, answer in zip(group, said, strict=True)
        }

    def _scored(self, row: int, text: str, finished: bool) -> ScoredAnswer:
        judge: Judge = self._judge
        return ScoredAnswer(text[:LONGEST_TEXT], finished, judge(text, self._decoded(self._prompts[row])[1]))

    def _decoded(self, prompt: Prompt) -> tuple[str, str]:
        decode = self._run.tokenizer.decode
        return tuple(decode(ids, skip_special_tokens=True).strip() for ids in (prompt.ids, prompt.reference))
