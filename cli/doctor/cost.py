"""What a run over the rows would take on a machine, by the planner."""

import json
from pathlib import Path

from tunesmith.cli import output
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.models.shape import ModelShape


def cost_line(model: Path, facts: DatasetFacts, *, on: str) -> str:
    """Method, time and GPU hours of a run, or why none fits.

    Raises:
        InvalidRequest: the model's config.json or the machine's name means nothing.
    """
    from tunesmith.tuning.hardware_facts.gpus import what_if
    from tunesmith.tuning.plan import Plan
    from tunesmith.tuning.planner.choose import choose

    shape = ModelShape.from_config(json.loads((model / "config.json").read_text(encoding="utf-8")))
    spec = JobSpec.model_validate({"model": model.name, "hyperparameters": {}, "seed": 0})
    answer = choose(spec=spec, shape=shape, dataset=facts, hardware=what_if(on))
    if not isinstance(answer, Plan):
        return f"on {on} it does not fit: {answer.reasons[0].text}"
    hours = answer.time.seconds * answer.world_size / 3600
    span = f"{output.duration(answer.time.seconds_low)} to {output.duration(answer.time.seconds_high)}"
    return f"on {on}: {answer.method.value}, {span}, {hours:.2f} GPU hours (predicted)"
