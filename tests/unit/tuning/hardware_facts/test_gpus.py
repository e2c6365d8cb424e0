"""Names of GPUs, as people and as drivers write them."""

import pytest

from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.hardware import Gpu
from tunesmith.tuning.hardware_facts.gpu_table import KNOWN_GPUS, KnownGpu
from tunesmith.tuning.hardware_facts.gpus import find_gpu, rates_of, what_if, written
from tunesmith.tuning.values.units import GIB


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
    ("text", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe 80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "RTX 4090 Laptop"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000"),
        ("NVIDIA RTX 5000 Ada Generation", "RTX 5000 Ada"),
        ("Tesla T4", "T4"),
    ],
)
def test_people_may_paste_what_a_driver_calls_a_gpu(text: str, name: str) -> None:
    assert find_gpu(text).name == name


@pytest.mark.parametrize("text", ["8 H100", "RTX 3060 24GB", "RTX 4090 D", "GH200 480GB", "dgx h100"])
def test_a_name_that_may_mean_something_else_is_asked_about(text: str) -> None:
    with pytest.raises(InvalidRequest):
        find_gpu(text)


@pytest.mark.parametrize("known", KNOWN_GPUS, ids=lambda known: known.name)
def test_a_name_in_a_hint_can_be_asked_for(known: KnownGpu) -> None:
    assert find_gpu(written(known.name)) is known
    with pytest.raises(InvalidRequest) as refused:
        what_if(f"{written(known.name)}:999G")
    assert what_if(str(refused.value.hint).removeprefix("Write what is free behind the name, such as ").rstrip("."))


def test_no_memory_free_and_no_gpu_are_told_apart() -> None:
    for text, told in (
        ("A100:0G", "With no memory free nothing can be trained."),
        ("0xA100", "0 x A100 in one machine is absurd."),
    ):
        with pytest.raises(InvalidRequest, match=told):
            what_if(text)


@pytest.mark.parametrize(
    ("reported", "total_gib", "name"),
    [
        ("NVIDIA GeForce RTX 4090", 24, "RTX 4090"),
        ("NVIDIA A10G", 22.1, "A10G"),
        ("NVIDIA A10", 22.1, "A10"),
        ("NVIDIA A100-SXM4-40GB", 39.6, "A100 40GB"),
        ("NVIDIA A100 80GB PCIe", 79.3, "A100 PCIe 80GB"),
        ("NVIDIA A100-PCIE-40GB", 39.6, "A100 PCIe 40GB"),
        ("NVIDIA H100 NVL", 93.6, "H100 NVL"),
        ("NVIDIA GH200 480GB", 95.6, "GH200 96GB"),
        ("NVIDIA H20", 95.6, "H20"),
        ("NVIDIA L40", 45, "L40"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16, "RTX 4090 Laptop"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", 16, "RTX 4070 Ti Super"),
        ("NVIDIA GeForce RTX 4060 Ti", 16, "RTX 4060 Ti 16GB"),
        ("NVIDIA GeForce RTX 3060", 12, "RTX 3060"),
        ("NVIDIA GeForce RTX 3060 Laptop GPU", 6, "RTX 3060 Laptop"),
        ("NVIDIA RTX 5000 Ada Generation", 32, "RTX 5000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 95.6, "RTX PRO 6000"),
        ("Tesla V100-PCIE-32GB", 32, "V100 PCIe 32GB"),
        ("Quadro RTX 6000", 24, "Quadro RTX 6000"),
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
    assert machine.worker_class == "8x-a100-80gb-79gib"
    assert {gpu.memory_free_bytes for gpu in machine.gpus} == {int(79.15 * GIB)}
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
    assert len(KNOWN_GPUS) >= 21 + 30
    assert len({gpu.name for gpu in KNOWN_GPUS}) == len(KNOWN_GPUS)
    for gpu in KNOWN_GPUS:
        assert gpu.matmul_tflops > 0
        assert gpu.bandwidth_gb_per_second > 0


@pytest.mark.parametrize("known", KNOWN_GPUS, ids=lambda known: known.name)
def test_every_card_is_found_by_its_own_name_and_shows_less_than_its_box_promises(known: KnownGpu) -> None:
    assert find_gpu(known.name) == known
    assert find_gpu(known.name.replace(" ", "").lower()) == known
    assert 0.9 * known.box_gb < known.memory_gib < known.box_gb


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A100 PCIe", "A100 PCIe 80GB"),
        ("H100 PCIe", "H100 PCIe"),
        ("H100 NVL", "H100 NVL"),
        ("RTX3060", "RTX 3060"),
        ("4060Ti-16G", "RTX 4060 Ti 16GB"),
        ("RTX 4090 Laptop", "RTX 4090 Laptop"),
        ("A5000", "RTX A5000"),
        ("RTX PRO 6000", "RTX PRO 6000"),
        ("GH200", "GH200 144GB"),
        ("A30", "A30"),
    ],
)
def test_people_find_the_variants_too(text: str, name: str) -> None:
    assert find_gpu(text).name == name


def test_a_laptops_card_is_slower_than_the_desktops_of_its_name_and_an_unknown_one_is_not_taken_for_it() -> None:
    def rates(name: str) -> float:
        gpu = Gpu(index=0, name=name, memory_total_bytes=16 * GIB, memory_free_bytes=0, compute_capability=(8, 9))
        return rates_of(gpu).matmul_tflops

    assert rates("NVIDIA GeForce RTX 4090 Laptop GPU") < rates("NVIDIA GeForce RTX 4090") / 2
    assert rates("NVIDIA GeForce RTX 2080 with Max-Q Design") == rates("XYZ 1")


def slice_of(name: str, memory_gib: float) -> Gpu:
    memory = int(memory_gib * GIB)
    return Gpu(
        index=0, name=name, memory_total_bytes=memory, memory_free_bytes=memory, compute_capability=(9, 0), mig=True
    )


@pytest.mark.parametrize(
    ("name", "memory_gib", "whole", "share"),
    [
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", 39.5, "A100-80G", 3 / 7),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 9.75, "H100", 1 / 7),
        ("NVIDIA A30 MIG 2g.12gb", 11.75, "A30", 2 / 4),
        ("NVIDIA H200 MIG 7g.141gb", 139, "H200", 1),
    ],
)
def test_a_slice_computes_as_its_share_of_the_whole(name: str, memory_gib: float, whole: str, share: float) -> None:
    rates = rates_of(slice_of(name, memory_gib))
    assert rates.matmul_tflops == pytest.approx(find_gpu(whole).matmul_tflops * share)
    assert rates.bandwidth_gb_per_second <= find_gpu(whole).bandwidth_gb_per_second
    assert not rates.nvlink


def test_more_gpus_than_one_machine_holds_are_several_machines() -> None:
    assert [gpu.machine for gpu in what_if("16xH100").gpus] == [0] * 8 + [1] * 8
    assert {gpu.machine for gpu in what_if("8xH100").gpus} == {0}


@pytest.mark.parametrize(
    ("text", "name", "memory_gib"),
    [
        ("A100 3g.40gb", "A100 80GB MIG 3g.40gb", 39.6),
        ("A100-40G 3g.20gb", "A100 40GB MIG 3g.20gb", 19.7),
        ("A100-3g.20gb", "A100 40GB MIG 3g.20gb", 19.7),
        ("2xA100-80G MIG 1g.10gb", "A100 80GB MIG 1g.10gb", 9.9),
        ("H100 1g.20gb", "H100 MIG 1g.20gb", 19.8),
        ("H200 3g.71gb", "H200 MIG 3g.71gb", 69.9),
        ("A30 2g.12gb", "A30 MIG 2g.12gb", 11.75),
    ],
)
def test_what_if_reads_slices_by_the_names_of_their_profiles(text: str, name: str, memory_gib: float) -> None:
    gpus = what_if(text).gpus
    assert len(gpus) == (2 if text.startswith("2x") else 1)
    assert (gpus[0].name, gpus[0].mig) == (name, True)
    assert gpus[0].memory_total_bytes / GIB == pytest.approx(memory_gib, abs=0.1)


def test_a_slice_that_is_asked_about_computes_as_its_share() -> None:
    whole, part = (rates_of(what_if(text).gpus[0]) for text in ("A100-80G", "A100 3g.40gb"))
    assert part.matmul_tflops == pytest.approx(whole.matmul_tflops * 3 / 7)
    assert part.bandwidth_gb_per_second == pytest.approx(whole.bandwidth_gb_per_second / 2)


@pytest.mark.parametrize("text", ["A100 5g.40gb", "RTX4090 3g.12gb", "A100 3g.10gb"])
def test_slices_that_no_gpu_is_cut_into_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        what_if(text)
    assert "is cut into slices of" in caught.value.message
    assert "A100 3g.40gb" in str(caught.value.hint)


@pytest.mark.parametrize("known", KNOWN_GPUS[::9], ids=lambda known: known.name)
def test_what_is_offered_in_place_of_too_much_free_memory_can_be_asked(known: KnownGpu) -> None:
    name = known.name.replace(" ", "")
    with pytest.raises(InvalidRequest) as caught:
        what_if(f"{name}:500G")
    offered = str(caught.value.hint).split("such as ")[1].rstrip(".")
    assert what_if(offered).gpus[0].memory_free_bytes < what_if(offered).gpus[0].memory_total_bytes


@pytest.mark.parametrize("text", ["2xT4", "2 x T4", "2*T4"])
def test_a_number_of_gpus_may_be_written_with_any_sign_of_times(text: str) -> None:
    assert len(what_if(text).gpus) == 2


@pytest.mark.parametrize("text", ["T4x2", "2T4", "-1xT4"])
def test_a_number_in_another_place_is_told_where_it_goes(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        what_if(text)
    assert str(caught.value.hint).endswith("Several of them are written 2xT4.")


def test_a_card_of_another_maker_is_not_answered_with_names_that_only_share_digits() -> None:
    with pytest.raises(InvalidRequest) as caught:
        find_gpu("MI300X")
    assert "GPUs of NVIDIA" in str(caught.value.hint)
