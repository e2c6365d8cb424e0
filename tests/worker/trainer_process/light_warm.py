"""A warm process without the training libraries, ready in a moment: a job is the file job.py in its run directory.

    python light_warm.py [hang | deaf]

`hang` never answers a request; `deaf` never says that it is ready.
"""

import runpy
import socket
import sys
import time
from pathlib import Path

import numpy.random  # noqa: F401 - as the training libraries do, so that its seed is drawn before the fork

from tunesmith.worker.fork_protocol import Word, next_request, say
from tunesmith.worker.train.warm import forked
from tunesmith.worker.train.warm.__main__ import _die_with_the_worker

_LONG_SECONDS = 600.0


def run_job(run_dir: Path) -> int:
    """What a trainer does, in the test's own words."""
    runpy.run_path(str(run_dir / "job.py"), run_name="__main__")
    return 0


def main(mood: str) -> None:
    forked.train_here = run_job
    _die_with_the_worker()
    control = socket.socket(fileno=0)
    if mood == "deaf":
        time.sleep(_LONG_SECONDS)
    say(control, Word(ready=True))
    while (asked := next_request(control)) is not None:
        if mood == "hang":
            time.sleep(_LONG_SECONDS)
        request, descriptors = asked
        if (refused := forked.fork_trainer(request, descriptors)) is not None:
            say(control, Word(refused=refused))
        for descriptor in descriptors:
            socket.close(descriptor)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "well")
