"""Several processes under torchrun train together what one would have trained alone.

One method and objective: `test_data_parallel.py` compares the others, without an import of torch for each process.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs


@pytest.mark.slow
def test_two_processes_reach_the_weights_of_one(tmp_path: Path) -> None:
    model = build_tiny_model(tmp_path / "model")
    # Small micro-steps, so that a step has several and an uneven number of them per process.
    plan = plans.plan(method="lora", tokens_per_micro_step=64, learning_rate=1e-3)
    data = {"rows": runs.chat_rows(24), "validation": runs.chat_rows(4)}
    alone = runs.make_run(tmp_path / "alone", model=model, plan=plan, **data)
    assert runs.train_here(alone) == 0

    shared = plan.model_copy(update={"world_size": 2})
    together = runs.make_run(tmp_path / "two", model=model, plan=shared, **data)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, "-m", "tunesmith.worker.train", str(together.root)],
        cwd=runs.REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    wanted, got = (load_file(run.output / "adapter_model.safetensors") for run in (alone, together))
    for name, value in wanted.items():
        assert (got[name] - value).abs().max() < 2e-4, name
    steps = [[e["data"]["step"] for e in runs.events(run) if "samples" in e["data"]] for run in (alone, together)]
    # One process asks, the other waits for it; between the ends samples may take a share of the time and no more.
    assert [(told[0], told[-1]) for told in steps] == [(0, 6)] * 2
    points = [runs.metrics(directory) for directory in (alone, together)]
    assert [point["step"] for point in points[1]] == [0, 1, 2, 3, 4, 5, 6]
    for one, two in zip(*points, strict=True):
        names = ("train_loss", "grad_norm", "valid_loss", "trained_tokens", "supervised_tokens")
        compared = [name for name in names if one[name] is not None]
        assert {key: two[key] for key in compared} == pytest.approx({key: one[key] for key in compared}, rel=1e-3)
