"""The breakages, in the order of the promises that they break."""

from benchmarks.mutants.breakage import Breakage

BREAKAGES: tuple[Breakage, ...] = (
    Breakage(
        promise="G4",
        name="an attempt whose job was taken over may go on writing",
        file="service/attempts/fencing.py",
        old="job.epoch != attempt.epoch or attempt.ended_at is not None",
        new="False",
        tests="tests/service/test_attempts.py tests/races -k 'takeover or lost or fenced'",
    ),
)
