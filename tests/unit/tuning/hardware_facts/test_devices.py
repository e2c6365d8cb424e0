"""Machines whose GPUs are not alike, or not free alike."""

from tests.unit.tuning.cases import answer, data, plan
from tunesmith.tuning.hardware import Gpu, HardwareProfile
from tunesmith.tuning.hardware_facts.devices import devices_of, equal_devices
from tunesmith.tuning.hardware_facts.gpus import what_if
from tunesmith.tuning.plan import Plan, Refusal
from tunesmith.tuning.values.units import GIB


def machine(*gpus: tuple[str, float | None]) -> HardwareProfile:
    """GPUs by name, each with so many GiB free, or all."""
    made: list[Gpu] = []
    for index, (name, free_gib) in enumerate(gpus):
        gpu = what_if(name).gpus[0]
        free = gpu.memory_total_bytes if free_gib is None else int(free_gib * GIB)
        made.append(gpu.model_copy(update={"index": index, "memory_free_bytes": free}))
    return what_if("1xT4").model_copy(update={"gpus": tuple(made)})


def indices(chosen: Plan, hardware: HardwareProfile) -> list[int]:
    return [gpu.index for gpu in devices_of(chosen, hardware)]


def test_equal_gpus_are_one_machine() -> None:
    assert equal_devices(what_if("4xH100")) == (what_if("4xH100"),)


def test_a_slow_gpu_beside_fast_ones_stays_idle_and_the_plan_says_so() -> None:
    mixed = machine(("T4", None), ("A100-80G", None), ("A100-80G", None))
    chosen = plan("llama-3.1-8b", mixed)
    assert chosen.precision == "bf16"
    assert set(indices(chosen, mixed)) <= {1, 2}
    assert "Of 3 unlike GPUs 2 x A100 80GB" in next(r.text for r in chosen.reasons if r.rule == "devices")


def test_a_job_that_only_the_slower_kind_holds_goes_there() -> None:
    mixed = machine(("H100", 4), ("RTX A6000", None))
    chosen = plan("llama-3.1-8b", mixed)
    assert indices(chosen, mixed) == [1]


def test_of_equal_gpus_one_that_another_process_uses_is_left_out() -> None:
    shared = machine(("A100-80G", 3), ("A100-80G", None))
    chosen = plan("llama-3.1-8b", shared, dataset=data(2000))
    assert chosen.world_size == 1
    assert indices(chosen, shared) == [1]
    assert chosen.memory.budget_bytes == int(79.15 * GIB)


def test_gpus_that_are_all_used_are_planned_with_the_least_that_is_free() -> None:
    shared = machine(("A100-80G", 40), ("A100-80G", 60))
    chosen = plan("llama-3.1-8b", shared)
    assert chosen.memory.budget_bytes == (40 if chosen.world_size == 2 else 60) * GIB


def test_where_no_kind_fits_the_strongest_says_its_numbers() -> None:
    refused = answer("llama-3.1-70b", machine(("T4", None), ("RTX4090", None)))
    assert isinstance(refused, Refusal)
    assert "23.6 GiB are free on this RTX 4090" in refused.text


def test_another_gpu_of_another_kind_never_takes_a_plan_away() -> None:
    for model in ("llama-3.2-1b", "llama-3.1-8b"):
        alone = plan(model, machine(("RTX4090", None)))
        beside = plan(model, machine(("RTX4090", None), ("B200", 1)))
        assert beside.method is alone.method


def slices(*free_gib: float) -> HardwareProfile:
    made = [
        Gpu(
            index=index,
            name="NVIDIA A100-SXM4-80GB MIG 3g.40gb",
            memory_total_bytes=int(39.5 * GIB),
            memory_free_bytes=int(free * GIB),
            compute_capability=(8, 0),
            mig=True,
            uuid=f"MIG-{index}",
        )
        for index, free in enumerate(free_gib)
    ]
    return what_if("1xT4").model_copy(update={"gpus": tuple(made)})


def test_slices_of_a_gpu_are_never_joined_and_the_freest_is_taken() -> None:
    machine_of_slices = slices(20, 39, 30)
    chosen = plan("llama-3.1-8b", machine_of_slices, dataset=data(20_000))
    assert chosen.world_size == 1
    assert indices(chosen, machine_of_slices) == [1]
    assert "slices of GPUs cannot be joined" in next(r.text for r in chosen.reasons if r.rule == "devices")


def test_a_slice_is_slower_than_the_gpu_that_it_is_cut_from() -> None:
    whole = plan("llama-3.1-8b", "1xA100-80G", method="lora").time.seconds
    assert plan("llama-3.1-8b", slices(39), method="lora").time.seconds > 2 * whole


def test_a_run_stays_within_one_machine_and_the_plan_says_so() -> None:
    chosen = plan("llama-3.1-8b", "16xH100", dataset=data(60_000))
    assert chosen.world_size <= 8
    assert "16 GPUs are 2 machines" in next(r.text for r in chosen.reasons if r.rule == "devices")
