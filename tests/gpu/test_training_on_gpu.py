"""Ten real steps of every method on real hardware: losses fall, memory stays by the plan, lack of it is survived."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train import runs
from tunesmith.tuning.estimates.measured import visible_peak_bytes
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Plan
from tunesmith.tuning.planner.choose import choose
from tunesmith.worker.run_directory import RunDirectory
from tunesmith.worker.train.models.model import read_config

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore")]
MARGIN = 0.15  # of the predicted peak
NEEDED = {"full": (), "lora": ("peft",), "qlora": ("peft", "bitsandbytes")}
ROWS = runs.chat_rows(80)


def need(*packages: str) -> None:
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        pytest.skip(f"needs {' and '.join(absent)}")


@pytest.fixture
def planned(device: torch.device, folder: Path, tmp_path: Path) -> Any:
    """The planner's own plan for this machine, cut to ten steps."""

    def plan(method: str, **changes: Any) -> Plan:
        decision = choose(
            spec=JobSpec(model="m", method=method, seed=1, lora={"rank": 8}),
            shape=ModelShape.from_config(read_config(folder)),
            dataset=DatasetFacts(rows=80, tokens=2400, longest_row_tokens=60, supervised_tokens=900),
            hardware=profile(device, tmp_path),
        )
        assert isinstance(decision, Plan), decision
        steps = {"rows_per_step": 8, "epochs": 1, "total_steps": 10, "warmup_steps": 1, "learning_rate": 2e-3}
        return decision.model_copy(update={**steps, "checkpoint_interval_steps": 10, **changes})

    return plan


def profile(device: torch.device, disk: Path) -> HardwareProfile:
    if device.type == "cpu":
        from tests.unit.tuning.cases import cpu

        return cpu()
    from tunesmith.tuning.hardware import Cpu, Gpu

    found = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info()
    return HardwareProfile(
        gpus=(
            Gpu(
                index=0,
                name=found.name,
                memory_total_bytes=total,
                memory_free_bytes=free,
                compute_capability=(found.major, found.minor),
            ),
        ),
        cpu=Cpu(model="host", cores=4, memory_total_bytes=2**34, memory_free_bytes=2**33, bf16=False),
        installed={name: "" for name in ("bitsandbytes", "triton") if importlib.util.find_spec(name)},
    )


def trained(root: Path, model: Path, plan: Plan) -> RunDirectory:
    directory = runs.make_run(root, model=model, plan=plan, rows=ROWS)
    assert runs.train_here(directory) == 0, directory.read_result()
    return directory


def losses(directory: RunDirectory) -> list[float]:
    return [point["train_loss"] for point in runs.metrics(directory) if point.get("train_loss") is not None]


@pytest.mark.parametrize("method", NEEDED)
def test_ten_steps_lower_the_loss_within_the_memory_that_was_planned(
    planned: Any, folder: Path, tmp_path: Path, on_gpu: bool, method: str
) -> None:
    need(*NEEDED[method])
    plan = planned(method)
    directory = trained(tmp_path, folder, plan)
    curve, result = losses(directory), directory.read_result()
    assert len(curve) == 10
    assert curve[-1] < curve[0]
    assert result is not None
    if on_gpu:
        predicted = visible_peak_bytes(plan.memory, device="cuda")
        assert result.peak_memory_bytes == pytest.approx(predicted, rel=MARGIN)


def test_the_canary_measures_before_training(planned: Any, folder: Path, tmp_path: Path) -> None:
    directory = trained(tmp_path, folder, planned("full"))
    report = json.loads(directory.canary.read_text())
    assert report["tokens_per_second"] > 0
    assert report["peak_memory_bytes"] > 0


def test_a_run_that_memory_ends_goes_down_the_ladder_to_the_same_losses(
    planned: Any, folder: Path, tmp_path: Path, on_gpu: bool
) -> None:
    """The allocator itself is capped, below what the planned micro-step needs and above what the smallest needs."""
    wide = {"rows_per_step": 80, "total_steps": 1, "tokens_per_micro_step": 4096}
    roomy = trained(tmp_path / "roomy", folder, planned("full", **wide))
    if not on_gpu:
        return
    result = roomy.read_result()
    assert result is not None
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(
        0.9 * (result.peak_memory_bytes or 0) / torch.cuda.get_device_properties(0).total_memory
    )
    try:
        tight = trained(tmp_path / "tight", folder, planned("full", **wide))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("going on with" in event["message"] for event in runs.events(tight))
    assert losses(tight) == pytest.approx(losses(roomy), rel=1e-3)


def test_half_precision_scales_its_loss_and_stays_finite(planned: Any, folder: Path, tmp_path: Path) -> None:
    directory = trained(tmp_path, folder, planned("full", precision="fp16", attention="sdpa"))
    curve = losses(directory)
    assert curve[-1] < curve[0]


def test_a_base_in_eight_bits_learns(planned: Any, folder: Path, tmp_path: Path, on_gpu: bool) -> None:
    need("peft")
    if on_gpu and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs compute capability 8.9")
    directory = trained(tmp_path, folder, planned("lora", float8_base=True))
    assert losses(directory)[-1] < losses(directory)[0]
    assert any("held and multiplied in 8-bit" in event["message"] for event in runs.events(directory))
