"""Whether a result is good enough, by its own held-out rows."""

from collections.abc import Iterator
from dataclasses import dataclass

from tunesmith.cli.ci.job_file import Gate
from tunesmith.tuning.api.metrics import MetricPoint


@dataclass(frozen=True)
class Check:
    """One bound and what was measured."""

    name: str
    passed: bool
    sentence: str


def judge(gate: Gate, result: MetricPoint | None) -> Iterator[Check]:
    """Compare with every bound; what was not measured is not good enough."""
    if gate.max_validation_loss is not None:
        yield _check("max_validation_loss", result.valid_loss if result else None, most=gate.max_validation_loss)
    if gate.min_token_accuracy is not None:
        measured = result.valid_mean_token_accuracy if result else None
        yield _check("min_token_accuracy", measured, least=gate.min_token_accuracy)


def _check(name: str, measured: float | None, *, most: float | None = None, least: float | None = None) -> Check:
    what = name.partition("_")[2].replace("_", " ")
    bound = most if most is not None else least
    if measured is None:
        return Check(name, False, f"The {what} was not measured: the job needs held-out rows for this gate.")
    passed = measured <= most if most is not None else least is not None and measured >= least
    relation = "at most" if most is not None else "at least"
    return Check(name, passed, f"The {what} is {measured:.4g}; the gate wants {relation} {bound:.4g}.")
