"""`python -m worker.train RUN_DIR`: read plan.json, train by the plan's method, write result.json.

Exit codes: 0 done, EXIT_STOPPED stopped on request with a complete checkpoint, EXIT_FAILED with the reason in
result.json.
"""

import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # some libraries ask a hub while they are imported
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("BITSANDBYTES_NOWELCOME", "1")

from worker.rundir import RunDirectory
from worker.train import lifeline


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
