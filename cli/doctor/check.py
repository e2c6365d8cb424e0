"""Reads a training file and its validation file once each, in bounded memory, and tells what is in them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tunesmith.cli.progress import transfer
from tunesmith.tuning.datasets.doctor.row_hashes import RowHashes
from tunesmith.tuning.datasets.row_formats import Row
from tunesmith.tuning.datasets.rows import RowChecker, RowReport

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class CheckedData:
    """What both files are; `shared` of the validation report are its rows that are trained on too."""

    training: RowReport
    validation: RowReport | None

    @property
    def is_usable(self) -> bool:
        """Whether every row of both can be used."""
        return not self.training.problem_count and not (self.validation and self.validation.problem_count)

    @property
    def is_the_same_twice(self) -> bool:
        """Whether every row of the validation file is trained on."""
        return self.validation is not None and 0 < self.validation.rows == self.validation.shared.count


def check_files(training: Path, validation: Path | None, *, seen: Callable[[Row], None]) -> CheckedData:
    """Check both; `seen` is shown every good row of the training file."""
    hashes = RowHashes()
    report = _read(training, RowChecker(hashes=hashes, seen=seen))
    return CheckedData(report, None if validation is None else _read(validation, RowChecker(other=hashes)))


def _read(path: Path, checker: RowChecker) -> RowReport:
    with transfer(f"check {path.name}", total_bytes=path.stat().st_size) as advance, path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            checker.feed(piece)
            advance(len(piece))
    return checker.finish()
