"""The breakages, in the order of the promises that they break."""

from benchmarks.mutants import bytes_and_access, endings, ownership, runs, submission
from benchmarks.mutants.breakage import Breakage

BREAKAGES: tuple[Breakage, ...] = tuple(
    sorted(
        (
            *submission.BREAKAGES,
            *ownership.BREAKAGES,
            *endings.BREAKAGES,
            *runs.BREAKAGES,
            *bytes_and_access.BREAKAGES,
        ),
        key=lambda breakage: int(breakage.promise.removeprefix("G")),
    )
)
