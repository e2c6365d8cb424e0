"""`python -m worker.train RUN_DIR`: read plan.json, train by the plan's method, write result.json.

Exit codes: 0 done, EXIT_STOPPED stopped on request with a complete checkpoint, EXIT_FAILED with the reason in
result.json.
"""

import signal
import sys
from pathlib import Path

from worker.rundir import RunDirectory
from worker.train import (
    lifeline,
    offline,  # noqa: F401 - before transformers
)


def main() -> int:
    """Start the watch on the worker before the slow imports, then train."""
    directory = RunDirectory(Path(sys.argv[1]).resolve())
    request = directory.request()
    lifeline.watch(request.lifeline_fd)
    signal.signal(signal.SIGTERM, lambda *_: directory.stop.touch())
    from worker.train.session import train_to_result

    return train_to_result(request, directory)


if __name__ == "__main__":
    sys.exit(main())
