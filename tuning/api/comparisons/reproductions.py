"""The verdict on a job that repeats another."""

from typing import Literal

from tunesmith.tuning.api.base import Answer
from tunesmith.tuning.planner.reproduction import Comparison


class ReproductionObject(Comparison, Answer):
    """Whether a job gave the same bytes and numbers as the one that it repeats, and what about them differs."""

    object: Literal["tunesmith.reproduction"] = "tunesmith.reproduction"
    """Always `tunesmith.reproduction`."""
    job_id: str
    """The job that repeats."""
    reproduces: str
    """The job that is repeated."""
