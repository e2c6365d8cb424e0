"""`python -m worker.train RUN_DIR`: read plan.json, train by the plan's method, write result.json.

Exit codes: 0 done, EXIT_STOPPED stopped on request with a complete checkpoint, EXIT_FAILED with the reason in
result.json.
"""

import signal
import sys
from pathlib import Path

from worker.rundir import RunDirectory, TrainRequest
from worker.train import (
    environment,  # noqa: F401 - before torch
    lifeline,
)


def main() -> int:
    """Start the watch on the worker before the slow imports, then train."""
    directory = RunDirectory(Path(sys.argv[1]).resolve())
    request = directory.request()
    lifeline.watch(request.lifeline_fd)
    _hide_unused_packages(request)
    signal.signal(signal.SIGTERM, lambda *_: directory.stop.touch())
    from worker.train.session import train_to_result

    return train_to_result(request, directory)


def _hide_unused_packages(request: TrainRequest) -> None:
    """Libraries import what is installed: bitsandbytes, a fifth of the start-up, for 4-bit work only; deepspeed."""
    plan = request.plan
    if plan.quantization is None and plan.optimizer != "adamw_8bit":
        sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # Python's own way to say: not here
    if not plan.zero_stage and not plan.offload_optimizer:
        sys.modules["deepspeed"] = None  # type: ignore[assignment]


if __name__ == "__main__":
    sys.exit(main())
