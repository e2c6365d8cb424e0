"""Checking the rows of a job's files here, before anything is sent, so that a bad row is named by its line."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tunesmith.cli.ci.job_file import Loaded
from tunesmith.cli.yaml_lines import Problem
from tunesmith.tuning.datasets.rows import RowChecker, RowReport
from tunesmith.tuning.errors import InvalidTrainingFile

_PIECE_BYTES = 1 << 20


class DataRefused(InvalidTrainingFile):
    """Rows that cannot be trained on."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)), hint="Correct these lines.")
        self.problems = problems


@dataclass(frozen=True)
class CheckedFile:
    """A file here with what its rows are."""

    path: Path
    report: RowReport


def check_data(loaded: Loaded) -> dict[str, CheckedFile]:
    """By field, the files that are here; those that were uploaded earlier the service has checked.

    Raises:
        DataRefused: with the lines of every file that cannot be trained on.
    """
    checked = {field: CheckedFile(path, _check(path)) for field, path in loaded.files.items() if isinstance(path, Path)}
    problems = [problem for file in checked.values() for problem in _problems(file)]
    if problems:
        raise DataRefused(problems)
    return checked


def _check(path: Path) -> RowReport:
    checker = RowChecker()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            checker.feed(piece)
    return checker.finish()


def _problems(file: CheckedFile) -> Iterator[Problem]:
    for problem in file.report.problems:
        yield Problem(str(file.path), problem.line, problem.reason)
    more = file.report.problem_count - len(file.report.problems)
    if more > 0:
        yield Problem(str(file.path), 0, f"and {more:,} more lines")
