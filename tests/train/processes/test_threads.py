"""Threads that products on a CPU are shared out among."""

import os
import subprocess
import sys

import pytest

_LARGEST_ERROR = """
from tunesmith.worker.train import environment
import torch
torch.manual_seed(0)
rows, weights = torch.randn(40, 64).bfloat16(), torch.randn(64, 64).bfloat16()
errors = [(rows @ weights).float() - rows.float() @ weights.float() for _ in range(20)]
print(max(float(error.abs().max()) for error in errors))
"""


@pytest.mark.parametrize("threads", [{}, {"OMP_NUM_THREADS": "2"}], ids=["none asked for", "two asked for"])
def test_products_are_right_under_a_limit_of_threads(threads: dict[str, str]) -> None:
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment = {**inherited, "OMP_THREAD_LIMIT": "1", **threads}
    said = subprocess.run([sys.executable, "-c", _LARGEST_ERROR], env=environment, capture_output=True, check=True)
    assert float(said.stdout) < 0.5
