"""What a doctor says of a machine, line by line."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One line of the answer; `next_step` says what to do unless all is well."""

    level: Level
    subject: str
    text: str
    next_step: str = ""
