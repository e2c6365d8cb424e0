"""Sample answers: what the model said to the same held-out prompts at each evaluation, prompt by prompt."""

from collections.abc import Iterable, Iterator

from pydantic import ValidationError

from tunesmith.tuning.api.metrics import SampleAnswer, SampleObject
from tunesmith.tuning.values.json_objects import Json


def by_prompt(reports: Iterable[Json]) -> list[SampleObject]:
    """One object for each prompt with its answers in the order of steps, from what events reported, oldest first.

    A step that a later attempt repeated counts once, as it was said last. A report that lacks what it should have is
    left out: it was made by a trainer of another version.
    """
    prompts: dict[int, SampleObject] = {}
    answers: dict[int, dict[int, SampleAnswer]] = {}
    for sample in (sample for report in reports for sample in _well_formed(report)):
        prompts.setdefault(sample.line, sample)
        (answer,) = sample.answers
        answers.setdefault(sample.line, {})[answer.step] = answer
    return [
        prompt.model_copy(update={"answers": [answers[line][step] for step in sorted(answers[line])]})
        for line, prompt in sorted(prompts.items())
    ]


def _well_formed(report: Json) -> Iterator[SampleObject]:
    """What the model said to each prompt at one evaluation."""
    samples = report.get("samples")
    for sample in samples if isinstance(samples, list) else []:
        try:
            yield _one_answer(sample, step=report["step"])
        except (ValidationError, KeyError, TypeError):
            continue


def _one_answer(sample: Json, *, step: int) -> SampleObject:
    answer = SampleAnswer(step=step, answer=sample["answer"], finished=sample["finished"])
    return SampleObject(
        line=sample["line"], prompt_end=sample["prompt_end"], reference=sample["reference"], answers=[answer]
    )
