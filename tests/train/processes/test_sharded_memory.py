"""The planner's bytes of sharded training are those that two processes under DeepSpeed really hold."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.train.processes.sharded_memory import CASES, CONFIG, PROCESSES, RANK, TOKENS
from tunesmith.tuning.engine import ZERO_BUCKET_ELEMENTS
from tunesmith.tuning.estimates.activations import Graph, layer_bytes_per_token
from tunesmith.tuning.estimates.memory import Setup, footprint_of, learning_bytes
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.words import Method

pytestmark = pytest.mark.slow  # a minute and a half; its formulas change with the engine alone

SHAPE = ModelShape.from_config(CONFIG)


@pytest.fixture(scope="module")
def held() -> dict[str, dict[str, float]]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.train.processes.sharded_memory"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"},
        cwd=Path(__file__).parents[3],
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def setup(method: str, stage: Any) -> Setup:
    return Setup(
        method=Method(method),
        device="cpu",
        precision="bf16",
        tokens_per_micro_step=TOKENS,
        rank=RANK,
        zero_stage=stage,
        world_size=PROCESSES,
    )


@pytest.mark.parametrize(("method", "stage"), CASES)
def test_weights_gradients_and_optimizer_take_the_bytes_that_are_planned(held: Any, method: str, stage: Any) -> None:
    found = held[f"{method} {stage}"]
    frozen, trainable = found["parameters"] - found["trainable"], found["trainable"]
    planned = setup(method, stage)
    gradients, states = learning_bytes(footprint_of(SHAPE, planned), planned)
    weights = 2 * (frozen + (trainable if method == "full" else 0)) / (PROCESSES if stage == 3 else 1)
    expected = weights + trainable * (gradients + states)
    buffer = 2 * found["reduced"] if stage > 1 else 0  # stage 2 may have let it go after its pass
    tables = 2 * 2 * SHAPE.vocab_size * SHAPE.hidden_size  # a gradient of the head or of the embedding
    assert 0.97 * expected <= found["held"] <= 1.02 * expected + buffer + tables


def test_a_frozen_linear_of_deepspeed_keeps_its_input_and_the_plan_counts_it(held: Any) -> None:
    for method in ("full", "lora"):
        graph = Graph(full=method == "full", width=2, rank=RANK, device="cpu", shared_out=True)
        saved = held[f"{method} 3"]["saved_per_layer_and_token"]
        assert layer_bytes_per_token(SHAPE, graph) == pytest.approx(saved, rel=0.01)


def test_gradients_are_summed_in_a_buffer_no_larger_than_what_learns(held: Any) -> None:
    for found in held.values():
        assert found["reduced"] == min(ZERO_BUCKET_ELEMENTS, found["trainable"])
