"""How a run of a pipeline ended: what was reached, what was not, and the code to exit with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tunesmith.cli.ci.gate import Check
from tunesmith.cli.exit_codes import ExitCode
from tunesmith.cli.yaml_lines import Problem
from tunesmith.tuning.api.jobs import JobObject
from tunesmith.tuning.api.metrics import MetricPoint, SampleObject


@dataclass(frozen=True)
class Champion:
    """The model that the new one is shown beside."""

    name: str
    validation_loss: float
    is_on_the_same_rows: bool


@dataclass(frozen=True)
class Step:
    """One thing that a pipeline looks at."""

    name: str
    state: Literal["passed", "failed", "skipped"]
    message: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Ending:
    """Everything that is reported. `headline` is one sentence."""

    code: ExitCode
    headline: str
    job: JobObject | None = None
    points: Sequence[MetricPoint] = ()
    samples: Sequence[SampleObject] = ()
    checks: Sequence[Check] = ()
    champion: Champion | None = None
    missing_champion: str | None = None
    problems: Sequence[Problem] = ()
    refused: Literal["job file", "data", "submission"] | None = None
    hints: Sequence[str] = field(default=())

    @property
    def steps(self) -> Iterator[Step]:
        """What passed and what did not, in the order in which it happens."""
        names = ("job file", "data", "submission")
        for number, name in enumerate(names):
            if self.refused is None or number < names.index(self.refused):
                yield Step(name, "passed")
            elif name == self.refused:
                yield Step(name, "failed", "\n".join([self.headline, *map(str, self.problems)]))
            else:
                yield Step(name, "skipped")
        yield self._training()
        for check in self.checks:
            yield Step(f"gate {check.name}", "passed" if check.passed else "failed", check.sentence)

    def _training(self) -> Step:
        if self.job is None:
            return Step("training", "skipped")
        seconds = float((self.job.finished_at or self.job.created_at) - self.job.created_at)
        if self.job.status == "succeeded":
            return Step("training", "passed", seconds=seconds)
        log = self.job.tunesmith.failure.log_tail if self.job.tunesmith.failure else None
        return Step("training", "failed", "\n".join([self.headline, *(log or "").splitlines()[-20:]]), seconds)


def result_point(job: JobObject, points: Sequence[MetricPoint]) -> MetricPoint | None:
    """The evaluation of the weights that are the result: the best, where those were kept, or else the last."""
    evaluated = [point for point in points if point.valid_loss is not None]
    best = (job.tunesmith.result or {}).get("best_step")
    return next((point for point in evaluated if point.step == best), evaluated[-1] if evaluated else None)
