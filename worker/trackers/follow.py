"""`python -m tunesmith.worker.trackers.follow`: hands a run's metrics to a tracker while the trainer appends them.

A process of its own, with none of the worker's keys: whatever its library does, the job goes on. The first line of
standard input is a `TrackedRun`; a second one says how the job ended. When the input ends, it hands over what is left
and has a minute for it. On standard output it says `{"url"}`, or `{"error"}`.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tunesmith.worker.run_directory import without_links
from tunesmith.worker.trackers.event_files import curves_of
from tunesmith.worker.trackers.sinks import Sink, open_sink
from tunesmith.worker.trackers.tracked_run import TrackedRun

_LAST_SECONDS = 60
_POLL_SECONDS = 0.5
_LONGEST_LINE_BYTES = 1024**2
_POLITENESS = 10


def main() -> int:
    """Follow one run to its end."""
    os.nice(_POLITENESS)
    answers = os.fdopen(os.dup(1), "w")  # not for children, nor for what a library prints
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    run = TrackedRun.model_validate_json(sys.stdin.readline())
    ending = Ending()
    threading.Thread(target=ending.wait_for, args=(sys.stdin,), daemon=True).start()
    try:
        sink = open_sink(run)
        _say(answers, {"url": sink.url})
        follow(Path(run.metrics), sink, ending)
        sink.finish(succeeded=ending.succeeded)
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        _say(answers, {"error": f"{type(error).__name__}: {first_line}"[:300]})
        return 1
    return 0


class Ending:
    """How and that the job has ended. From then on the process ends in time, whatever holds it up."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.succeeded = False

    def wait_for(self, words: IO[str]) -> None:
        """Read to the end."""
        try:
            self.succeeded = words.read().strip() == "succeeded"
        finally:  # whatever was said: without an end the process would stay for ever
            signal.alarm(_LAST_SECONDS)  # ends the process where nobody handles it
            self.reached.set()


def follow(metrics: Path, sink: Sink, ending: Ending) -> None:
    """Hand over every whole line, the last ones after the end."""
    lines = _Lines(metrics)
    while True:
        is_last = ending.reached.wait(_POLL_SECONDS)
        for line in lines.fresh():
            for point, curves in curves_of([line]):
                sink.log(curves, step=int(point["step"]), time=float(point.get("time") or 0))
        if is_last:
            return


class _Lines:
    """Whole lines of a file that grows; a longer one than any that we write is damage."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def fresh(self) -> Iterator[bytes]:
        try:
            with open(self._path, "rb", opener=without_links) as file:
                file.seek(self._offset)
                while (line := file.readline(_LONGEST_LINE_BYTES)).endswith(b"\n") or len(line) == _LONGEST_LINE_BYTES:
                    self._offset += len(line)
                    yield line
        except OSError:
            return


def _say(answers: IO[str], what: dict[str, Any]) -> None:
    print(json.dumps(what), file=answers, flush=True)


if __name__ == "__main__":
    sys.exit(main())
