"""`python -m tunesmith.worker.train RUN_DIR`: read plan.json, train by the plan's method, write result.json."""

import sys
from pathlib import Path

from tunesmith.worker.train import environment  # noqa: F401 - before torch
from tunesmith.worker.train.trainer import leave, train_here

if __name__ == "__main__":
    leave(train_here(Path(sys.argv[1])))
