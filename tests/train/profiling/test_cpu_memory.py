"""QLoRA on a CPU takes the memory that is promised: loading leaves neither 16-bit file nor scattered heap behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.tuning.estimates.memory import Setup, estimate
from tunesmith.tuning.models.catalogue import CONFIGS
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.words import Method

pytestmark = pytest.mark.slow  # loads and trains a model of 135M parameters; nothing else may want the memory

CONFIG = {name: value for name, value in CONFIGS["smollm2-135m"].items() if value is not None}
TOKENS = 512
SCRIPT = """
import dataclasses, json, resource, sys
from pathlib import Path
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from tests import plans
from tests.train import runs
from tunesmith.tuning.plan import Lora
from tunesmith.worker.train.kernels.loss import summed_cross_entropy
from tunesmith.worker.train.methods import lora
from tunesmith.worker.train.adapters.adapter import attach_adapter
from tunesmith.worker.train.adapters.fuse import fuse
from tunesmith.worker.train.models.model import Learner, load_model
from tunesmith.worker.train.optim.optimizer import MasterOptimizer
from tunesmith.worker.train.profiling.counting import Case, _batch
import bitsandbytes

config, folder, tokens = json.loads(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

def resident():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1]) * 1024

torch.set_num_threads(1)
plan = plans.plan(precision="bf16", quantization="nf4", double_quantization=True)
torch.randn(64, 64).bfloat16() @ torch.randn(64, 64).bfloat16()
before = resident()
model = load_model(folder, plan=plan, device=torch.device("cpu"))
loaded = resident() - before
model = attach_adapter(model, Lora(rank=16, alpha=32, dropout=0, target_modules="all-linear", trainable_parameters=1),
                       continue_from=None, seed=0)
fuse(model)
learner = Learner(model).train()
optimizer = MasterOptimizer(learner.trainable(), plan=plan, processes=1)
batch = _batch(Case(config, tokens=tokens, device="cpu"))
batch = dataclasses.replace(batch, target_positions=torch.arange(tokens // 2),
                            labels=torch.zeros(tokens // 2, dtype=torch.long))
for _ in range(2):
    optimizer.backward(learner(batch, summed_cross_entropy).loss, last=True)
    optimizer.step(learning_rate=1e-4)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
print(json.dumps({"loaded": loaded, "peak": peak}))
"""
MAKE = """
import json, sys, torch
from transformers import AutoConfig, AutoModelForCausalLM
config = AutoConfig.for_model(**json.loads(sys.argv[1]))
AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(sys.argv[2])
"""


def run(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        cwd=Path(__file__).parents[3],
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    folder = str(tmp_path_factory.mktemp("model"))
    run(MAKE, json.dumps(CONFIG), folder)
    found: dict[str, int] = json.loads(run(SCRIPT, json.dumps(CONFIG), folder, str(TOKENS)).splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def promised() -> dict[str, int]:
    setup = Setup(
        method=Method.QLORA,
        device="cpu",
        precision="bf16",
        tokens_per_micro_step=TOKENS,
        rank=16,
        double_quantization=True,
        fused_passes=True,
    )
    return estimate(ModelShape.from_config(CONFIG), setup, budget_bytes=0).items


def test_a_quantised_model_takes_little_more_than_its_weights(used: dict[str, int], promised: dict[str, int]) -> None:
    """It took three to six times as much."""
    assert used["loaded"] < 1.4 * promised["weights"]


def test_the_peak_of_training_is_within_a_fifth_of_the_promise(used: dict[str, int], promised: dict[str, int]) -> None:
    without_process = sum(promised.values()) - promised["context"]
    assert used["peak"] == pytest.approx(without_process, rel=1 / 5)
