"""Numbers that no formula gives: a worker's own instead of the assumed ones, and the plan says which."""

from typing import Any

import pytest

from tests.unit.tuning.cases import TINY, cpu, plan
from tunesmith.tuning.hardware import HardwareProfile, MachineConstants
from tunesmith.tuning.hardware_facts.constants import CPU_KERNELS_BYTES, START_CONSTANTS
from tunesmith.tuning.hardware_facts.gpus import what_if
from tunesmith.tuning.plan import Plan
from tunesmith.tuning.values.units import GIB


def measured(**changes: Any) -> MachineConstants:
    values = {
        "process_bytes": GIB,
        "threads": 2,
        "matmul_16bit_flops_per_second": 4e11,
        "matmul_fp32_flops_per_second": 2e11,
    }
    return MachineConstants.model_validate(values | changes)


def with_constants(hardware: HardwareProfile, **changes: Any) -> HardwareProfile:
    return hardware.model_copy(update={"constants": measured(**changes)})


def said(result: Plan) -> str:
    return next(reason.text for reason in result.reasons if reason.rule == "constants")


def test_a_worker_that_measured_its_process_is_predicted_with_it() -> None:
    assert plan(TINY, cpu()).memory.items["context"] == START_CONSTANTS.cpu_process_bytes
    own = plan(TINY, with_constants(cpu()))
    assert own.memory.items["context"] == GIB + CPU_KERNELS_BYTES


@pytest.mark.parametrize("bf16", [True, False])
def test_a_processor_that_multiplies_twice_as_fast_is_promised_to_be_faster(bf16: bool) -> None:
    slow = plan("llama-3.2-1b", with_constants(cpu(bf16=bf16)))
    rates = {"matmul_16bit_flops_per_second": 8e11, "matmul_fp32_flops_per_second": 4e11}
    fast = plan("llama-3.2-1b", with_constants(cpu(bf16=bf16), **rates))
    assert 0.5 <= fast.time.seconds / slow.time.seconds < 0.65


def test_a_gpu_is_predicted_with_its_own_context_workspace_and_slack() -> None:
    gpu = what_if("1xH100")
    assumed = plan("llama-3.1-8b", gpu).memory
    own = plan(
        "llama-3.1-8b",
        with_constants(gpu, cuda_context_bytes=GIB, cuda_workspace_bytes=0, allocator_slack=0.1),
    ).memory
    assert own.items["context"] == GIB
    allocated = own.total_bytes - own.items["slack"] - own.items["context"]
    assert own.items["slack"] == pytest.approx(0.1 * allocated, rel=1e-6)
    assert own.total_bytes > assumed.total_bytes


def test_a_gpu_whose_context_could_not_be_measured_keeps_the_assumed_one() -> None:
    own = plan("llama-3.1-8b", with_constants(what_if("1xH100"))).memory
    assert own.items == plan("llama-3.1-8b", what_if("1xH100")).memory.items


def test_a_gpu_in_no_table_is_as_fast_as_it_multiplied() -> None:
    strange = what_if("1xH100").model_copy(update={"constants": None})
    strange = strange.model_copy(update={"gpus": (strange.gpus[0].model_copy(update={"name": "Model Z"}),)})
    unmeasured = plan("llama-3.1-8b", strange).time.seconds
    own = plan("llama-3.1-8b", with_constants(strange, matmul_16bit_flops_per_second=3e14)).time.seconds
    assert own < unmeasured / 3


def test_the_plan_says_which_numbers_were_measured_and_which_assumed() -> None:
    assert said(plan(TINY, cpu())).startswith("Assumed, because no worker has measured")
    assert said(plan(TINY, with_constants(cpu()))) == (
        "Measured on this worker: 1.1 GiB for the process, 200 GFLOP/s on each core."
    )
    assert said(plan("llama-3.1-8b", with_constants(what_if("1xH100")))).startswith("Assumed")
