"""Points at which a test breaks a process on purpose. Without TUNESMITH_FAULTS in the environment they do nothing.

    TUNESMITH_FAULTS="after_claim=kill before_commit=raise@3 mid_upload=sleep:1.5"

`@3` is the third time that a process comes to the point; without it the first. With TUNESMITH_FAULTS_FOLDER each fault
happens once in all processes that share the folder, so that what is started again gets past it.
"""

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

VARIABLE = "TUNESMITH_FAULTS"
FOLDER_VARIABLE = "TUNESMITH_FAULTS_FOLDER"
_FORM = re.compile(r"(?P<point>\w+)=(?P<action>kill|raise|sleep:(?P<seconds>\d+(\.\d+)?))(@(?P<passage>[1-9]\d*))?")


class Point(StrEnum):
    """Where: in the service, in the worker, and in the trainer."""

    BEFORE_COMMIT = "before_commit"  # of a request's transaction
    AFTER_COMMIT = "after_commit"  # before its answer
    BEFORE_FINISH = "before_finish"  # before the commit of an attempt's last word
    AFTER_FINISH = "after_finish"
    AFTER_SENDING = "after_sending"  # a webhook, before that is written down
    AFTER_CLAIM = "after_claim"
    AFTER_SPAWN = "after_spawn"  # of a trainer
    MID_UPLOAD = "mid_upload"  # a part of a file has been sent
    AFTER_UPLOAD = "after_upload"  # of all files, before they are registered
    INSIDE_CHECKPOINT = "inside_checkpoint"  # a part of it is written
    BEFORE_MANIFEST = "before_manifest"
    AFTER_RENAME = "after_rename"


class InjectedFault(Exception):
    """What `raise` raises: no handler knows it."""


class Fault(NamedTuple):
    """What happens at a point."""

    point: Point
    action: str
    seconds: float
    passage: int


_passages: Counter[Point] = Counter()


def parse(text: str) -> tuple[Fault, ...]:
    """Read the faults of the variable.

    Raises:
        ValueError: one is not of the form, or its point does not exist.
    """
    return tuple(_parse_one(word) for word in text.split())


def _parse_one(word: str) -> Fault:
    found = _FORM.fullmatch(word)
    if found is None:
        raise ValueError(f"{VARIABLE}: {word!r} is not like POINT=kill, POINT=raise@2 or POINT=sleep:1.5.")
    action, _, seconds = found["action"].partition(":")
    return Fault(Point(found["point"]), action, float(seconds or 0), int(found["passage"] or 1))


_armed = parse(os.environ.get(VARIABLE, ""))


def fault_point(point: Point) -> None:
    """Nothing, or what the environment asks for at this point."""
    if not _armed:
        return
    _passages[point] += 1
    for fault in _armed:
        if fault.point is point and fault.passage == _passages[point] and _is_first(point):
            _happen(fault)


def _is_first(point: Point) -> bool:
    """Whether no process that shares the folder was here before."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return True
    try:
        (Path(folder) / point).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _happen(fault: Fault) -> None:
    if fault.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault.action == "raise":
        raise InjectedFault(fault.point)
    time.sleep(fault.seconds)


@contextmanager
def armed(text: str) -> Iterator[None]:
    """Faults in this process, for a test that is one with what it breaks."""
    global _armed  # noqa: PLW0603
    before, _armed = _armed, parse(text)
    _passages.clear()
    try:
        yield
    finally:
        _armed = before
