"""Sample answers: what the model said to the same held-out prompts at each evaluation, prompt by prompt."""

from collections.abc import Iterable

from tunesmith.tuning.json_objects import Json


def by_prompt(reports: Iterable[Json]) -> list[Json]:
    """One object for each prompt with its answers in the order of steps, from what events reported, oldest first.

    A step that a later attempt repeated counts once, as it was said last. A report that lacks what it should have is
    left out: it was made by a trainer of another version.
    """
    prompts: dict[int, Json] = {}
    for report in reports:
        for sample in _well_formed(report):
            prompt = prompts.setdefault(
                sample["line"],
                {
                    "object": "tunesmith.sample",
                    "line": sample["line"],
                    "prompt_end": sample["prompt_end"],
                    "reference": sample["reference"],
                    "answers": {},
                },
            )
            step = report["step"]
            prompt["answers"][step] = {"step": step, "answer": sample["answer"], "finished": sample["finished"]}
    return [
        {**prompt, "answers": [prompt["answers"][step] for step in sorted(prompt["answers"])]}
        for _, prompt in sorted(prompts.items())
    ]


def _well_formed(report: Json) -> list[Json]:
    samples, names = report.get("samples"), {"line", "prompt_end", "reference", "answer", "finished"}
    if not isinstance(report.get("step"), int) or not isinstance(samples, list):
        return []
    return [sample for sample in samples if isinstance(sample, dict) and names <= sample.keys()]
