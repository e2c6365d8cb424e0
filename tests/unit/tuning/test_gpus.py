"""Names of GPUs, as people and as drivers write them."""

import pytest

from tuning.errors import InvalidRequest
from tuning.gpus import KNOWN_GPUS, find_gpu, rates_of, what_if
from tuning.hardware import GIB, Gpu


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("RTX4090", "RTX 4090"),
        ("rtx 3080", "RTX 3080"),
        ("4080", "RTX 4080"),
        ("RTX-5090", "RTX 5090"),
        ("T4", "T4"),
        ("V100", "V100 32GB"),
        ("A10G", "A10G"),
        ("l40s", "L40S"),
        ("A40", "A40"),
        ("A6000", "RTX A6000"),
        ("RTX6000-Ada", "RTX 6000 Ada"),
        ("A100-40G", "A100 40GB"),
        ("A100-80GB", "A100 80GB"),
        ("a100", "A100 80GB"),
        ("NVIDIA H100", "H100"),
        ("H200", "H200"),
        ("B200", "B200"),
    ],
)
def test_people_find_a_gpu_by_the_names_they_use(text: str, name: str) -> None:
    assert find_gpu(text).name == name


@pytest.mark.parametrize(
    ("reported", "total_gib", "name"),
    [
        ("NVIDIA GeForce RTX 4090", 24, "RTX 4090"),
        ("NVIDIA A10G", 22.1, "A10G"),
        ("NVIDIA A10", 22.1, "A10"),
        ("NVIDIA A100-SXM4-40GB", 39.6, "A100 40GB"),
        ("NVIDIA A100 80GB PCIe", 79.3, "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", 79.2, "H100"),
        ("NVIDIA H100 PCIe", 79.2, "H100 PCIe"),
        ("NVIDIA RTX 6000 Ada Generation", 47.5, "RTX 6000 Ada"),
        ("NVIDIA RTX A6000", 47.5, "RTX A6000"),
        ("Tesla V100-SXM2-16GB", 15.8, "V100 16GB"),
        ("Tesla T4", 14.6, "T4"),
        ("NVIDIA H200", 140, "H200"),
    ],
)
def test_a_drivers_name_leads_to_the_data_sheet(reported: str, total_gib: float, name: str) -> None:
    memory = int(total_gib * GIB)
    gpu = Gpu(index=0, name=reported, memory_total_bytes=memory, memory_free_bytes=memory, compute_capability=(8, 0))
    assert rates_of(gpu).name == name


def test_an_unheard_of_gpu_gets_a_cautious_rate() -> None:
    gpu = Gpu(index=0, name="XYZ 1", memory_total_bytes=GIB, memory_free_bytes=GIB, compute_capability=(8, 0))
    assert 0 < rates_of(gpu).matmul_tflops <= 65


def test_an_unknown_name_gets_near_matches() -> None:
    with pytest.raises(InvalidRequest) as caught:
        find_gpu("RTX4091")
    assert "RTX 4090" in str(caught.value.hint)


def test_what_if_reads_number_and_name() -> None:
    machine = what_if("8xA100-80G")
    assert len(machine.gpus) == 8
    assert machine.worker_class == "8x-a100-80gb-80gib"
    assert {gpu.memory_free_bytes for gpu in machine.gpus} == {80 * GIB}
    assert len(what_if("RTX4090").gpus) == 1


@pytest.mark.parametrize(
    ("text", "free_gib"), [("1xA100:30G", 30), ("2xRTX4090:20.5GiB", 20.5), ("a100-80g : 64 GB", 64)]
)
def test_what_if_caps_the_memory_that_is_free(text: str, free_gib: float) -> None:
    assert {gpu.memory_free_bytes for gpu in what_if(text).gpus} == {int(free_gib * GIB)}


def test_what_if_knows_machines_without_a_gpu() -> None:
    assert [what_if(text).device for text in ("CPU", "cpu", "8xCPU:32G")] == ["cpu"] * 3
    small = what_if("8xCPU:32G").cpu
    assert (small.cores, small.memory_free_bytes) == (8, 32 * GIB)


def test_what_if_takes_the_hosts_memory() -> None:
    assert what_if("8xH100", host_memory_bytes=1000 * GIB).cpu.memory_free_bytes == 1000 * GIB
    assert what_if("CPU", host_memory_bytes=16 * GIB).cpu.memory_free_bytes == 16 * GIB


@pytest.mark.parametrize("text", ["", "0xH100", "99999xH100", "A100:90G", "A100:0G", "CPU:0G", "A100:", ":30G"])
def test_what_if_refuses_nonsense(text: str) -> None:
    with pytest.raises(InvalidRequest):
        what_if(text)


def test_the_table_holds_the_common_gpus() -> None:
    assert len(KNOWN_GPUS) >= 18
    assert all(gpu.memory_gib > 0 and gpu.matmul_tflops > 0 for gpu in KNOWN_GPUS)
