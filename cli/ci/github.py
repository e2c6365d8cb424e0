"""What GitHub reads from a step: annotations at lines of files, and outputs for later steps."""

from collections.abc import Iterator
from pathlib import Path

from tunesmith.cli.ci.ending import Ending, result_point
from tunesmith.cli.exit_codes import ExitCode
from tunesmith.cli.yaml_lines import Problem

_MOST_ANNOTATIONS = 10  # GitHub shows no more of one step


def annotations(ending: Ending) -> Iterator[str]:
    """Commands for the log of the step: `::error file=...,line=...::message`."""
    if ending.code is ExitCode.SUCCEEDED:
        return
    for problem in ending.problems[:_MOST_ANNOTATIONS]:
        yield _at(problem)
    if not ending.problems:
        yield f"::error title=Tunesmith::{_data(ending.headline)}"


def append_outputs(path: Path, ending: Ending) -> None:
    """Add `name=value` lines to the file that later steps read."""
    with path.open("a", encoding="utf-8", errors="replace") as file:
        for name, value in outputs(ending).items():
            file.write(f"{name}={' '.join(value.split())}\n")  # one line each: a value cannot begin another name


def outputs(ending: Ending) -> dict[str, str]:
    """What later steps may use; what is not known is empty."""
    job = ending.job
    result = result_point(job, ending.points) if job else None
    return {
        "exit-code": str(int(ending.code)),
        "headline": ending.headline,
        "job-id": job.id if job else "",
        "status": job.status if job else "",
        "model": (job.fine_tuned_model or "") if job else "",
        "validation-loss": _number(result.valid_loss if result else None),
        "token-accuracy": _number(result.valid_mean_token_accuracy if result else None),
        "gate": _gate(ending),
    }


def _gate(ending: Ending) -> str:
    if not ending.checks:
        return "none"
    return "passed" if all(check.passed for check in ending.checks) else "refused"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _at(problem: Problem) -> str:
    line = f",line={problem.line}" if problem.line else ""
    return f"::error file={_property(problem.file)}{line}::{_data(problem.message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
