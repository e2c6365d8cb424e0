"""The probe tells what this process may really use, on hosts with and without GPUs, inside and outside containers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.search.attention_kernel import NEEDED_PACKAGES
from tunesmith.tuning.values.units import GIB
from tunesmith.worker.machine.cgroup import CgroupLimits, out_of_memory_kills, read_limits
from tunesmith.worker.machine.probe import probe


def test_the_probe_of_this_host_is_plausible(tmp_path: Path) -> None:
    found = probe(disk=tmp_path / "not" / "made" / "yet")
    assert 1 <= found.cpu.cores <= len(os.sched_getaffinity(0))
    assert 0 < found.cpu.memory_free_bytes <= found.cpu.memory_total_bytes
    assert found.disk_free_bytes > 0
    assert "torch" in found.installed


def test_attention_packages_and_triton_are_reported_under_the_names_that_the_planner_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, name in (
        ("flash_attn_4", "flash-attn-4"),
        ("flash_attn", "flash-attn"),
        ("flash_attn_3", "flash_attn_3"),
        ("triton", "triton"),
    ):
        info = tmp_path / f"{folder}-3.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 3.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    installed = probe(disk=tmp_path).installed
    assert [installed[package] for package in NEEDED_PACKAGES.values()] == ["3.1"] * 4


def test_the_memory_that_a_worker_offers_can_be_capped(tmp_path: Path) -> None:
    found = probe(disk=tmp_path, cpu_memory_gib=0.5)
    assert found.cpu.memory_total_bytes == GIB // 2
    assert found.cpu.memory_free_bytes <= GIB // 2


def test_the_command_prints_a_profile_without_any_settings_and_without_torch() -> None:
    run = "from tunesmith.worker.cli import main\ntry: main(['probe'])\n"
    script = f"import sys; {run}finally: assert 'torch' not in sys.modules"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert HardwareProfile.model_validate(json.loads(printed.stdout)).worker_class


def cgroup(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/system/worker\n")
    return tmp_path / "proc"


def test_the_tightest_limit_on_the_way_up_counts(tmp_path: Path, proc: Path) -> None:
    mount = tmp_path / "cgroup"
    cgroup(
        mount,
        cgroup_dot_controllers="cpu memory",
        system__memory_dot_max=str(4 * GIB),
        system__cpu_dot_max="max 100000",
        system__worker__memory_dot_max="max",
        system__worker__cpu_dot_max="150000 100000",
        system__worker__memory_dot_current=str(3 * GIB),
        system__worker__memory_dot_stat=f"anon 1\ninactive_file {GIB}\n",
        system__worker__memory_dot_events="low 0\noom_kill 2\n",
    )
    expected = CgroupLimits(cores=1.5, memory_bytes=4 * GIB, memory_used_bytes=2 * GIB)
    assert read_limits(mount=mount, proc=proc) == expected
    assert out_of_memory_kills(mount=mount, proc=proc) == 2


def test_version_one_limits_are_read_too(tmp_path: Path, proc: Path) -> None:
    mount = tmp_path / "cgroup"
    cgroup(
        mount,
        memory__memory_dot_limit_in_bytes=str(2 * GIB),
        memory__memory_dot_usage_in_bytes=str(GIB),
        memory__memory_dot_oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
        cpu__cpu_dot_cfs_quota_us="200000",
        cpu__cpu_dot_cfs_period_us="100000",
    )
    limits = read_limits(mount=mount, proc=proc)
    assert limits == CgroupLimits(cores=2.0, memory_bytes=2 * GIB, memory_used_bytes=GIB)
    assert out_of_memory_kills(mount=mount, proc=proc) == 3


def test_a_group_of_version_one_is_found_by_its_controller(tmp_path: Path, proc: Path) -> None:
    """As on a host whose service manager puts the worker into a group, with version 2 beside it."""
    (proc / "self" / "cgroup").write_text("4:memory:/system/worker\n3:cpu,cpuacct:/system\n0::/system/worker\n")
    mount = tmp_path / "cgroup"
    cgroup(
        mount,
        memory__memory_dot_limit_in_bytes=str(1 << 62),
        memory__system__memory_dot_limit_in_bytes=str(4 * GIB),
        memory__system__worker__memory_dot_limit_in_bytes=str(2 * GIB),
        memory__system__worker__memory_dot_usage_in_bytes=str(GIB),
        memory__system__worker__memory_dot_oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        memory__memory_dot_oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 7\n",
        cpu__system__cpu_dot_cfs_quota_us="150000",
        cpu__system__cpu_dot_cfs_period_us="100000",
    )
    limits = read_limits(mount=mount, proc=proc)
    assert limits == CgroupLimits(cores=1.5, memory_bytes=2 * GIB, memory_used_bytes=GIB)
    assert out_of_memory_kills(mount=mount, proc=proc) == 1


def test_where_no_group_counts_kills_the_host_does(tmp_path: Path, proc: Path) -> None:
    (proc / "vmstat").write_text("pgfault 12\noom_kill 5\n")
    assert out_of_memory_kills(mount=tmp_path / "nothing", proc=proc) == 5


def test_a_host_without_control_groups_has_no_limits(tmp_path: Path, proc: Path) -> None:
    assert read_limits(mount=tmp_path / "nothing", proc=proc) == CgroupLimits()
    assert out_of_memory_kills(mount=tmp_path / "nothing", proc=proc) == 0


class Driver:
    """What NVML says on a host with two cards, one of them without the optional features."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        answers = [name for name in vars(Driver) if not name.startswith("_")]
        for name in answers:
            monkeypatch.setattr(pynvml, f"nvml{name}", getattr(self, name))

    def Init(self) -> None: ...  # noqa: N802
    def Shutdown(self) -> None: ...  # noqa: N802

    def SystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.65"

    def DeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def DeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def DeviceGetMemoryInfo(self, _handle: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(total=24 * GIB, free=23 * GIB)

    def DeviceGetCudaComputeCapability(self, _handle: int) -> tuple[int, int]:  # noqa: N802
        return 8, 6

    def DeviceGetName(self, _handle: int) -> str:  # noqa: N802
        return "NVIDIA A10G"

    def DeviceGetNvLinkState(self, handle: int, _link: int) -> int:  # noqa: N802
        if handle == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return int(pynvml.NVML_FEATURE_ENABLED)

    def DeviceGetMigMode(self, handle: int) -> tuple[int, int]:  # noqa: N802
        if handle == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return int(pynvml.NVML_DEVICE_MIG_DISABLE), 0

    def DeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return f"GPU-{handle}0a1b2c3"


def test_cards_are_described_as_the_driver_reports_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Driver(monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = probe(disk=tmp_path)
    assert found.worker_class == "2x-nvidia-a10g-24gib"
    assert found.driver == "580.65"
    assert [(gpu.index, gpu.nvlink, gpu.mig, gpu.bf16) for gpu in found.gpus] == [
        (0, True, False, True),
        (1, False, False, True),
    ]


@pytest.mark.parametrize(("visible", "indices"), [("1", [1]), ("GPU-00a1", [0]), ("", []), ("1,0", [0, 1])])
def test_cards_that_the_operator_hides_are_not_offered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, visible: str, indices: list[int]
) -> None:
    Driver(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.index for gpu in probe(disk=tmp_path).gpus] == indices


class CutDriver(Driver):
    """The first card is cut into two slices by MIG, with room for five more; the second is whole."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch)
        for name in [name for name in vars(CutDriver) if not name.startswith("_")]:
            monkeypatch.setattr(pynvml, f"nvml{name}", getattr(self, name))

    def DeviceGetMigMode(self, handle: int) -> tuple[int, int]:  # noqa: N802
        return (int(pynvml.NVML_DEVICE_MIG_ENABLE) if handle == 0 else int(pynvml.NVML_DEVICE_MIG_DISABLE)), 0

    def DeviceGetMaxMigDeviceCount(self, _handle: int) -> int:  # noqa: N802
        return 7

    def DeviceGetMigDeviceHandleByIndex(self, _handle: int, place: int) -> str:  # noqa: N802
        if place in (0, 3):
            return f"slice {place}"
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def DeviceGetMemoryInfo(self, handle: int | str) -> SimpleNamespace:  # noqa: N802
        size = 40 if isinstance(handle, str) else 80
        return SimpleNamespace(total=size * GIB, free=(size - 1) * GIB)

    def DeviceGetName(self, handle: int | str) -> str:  # noqa: N802
        return "NVIDIA A100-SXM4-80GB" + (" MIG 3g.40gb" if isinstance(handle, str) else "")

    def DeviceGetUUID(self, handle: int | str) -> str:  # noqa: N802
        return f"MIG-{handle[-1]}fed" if isinstance(handle, str) else f"GPU-{handle}0a1b2c3"


def test_a_card_that_is_cut_up_is_offered_as_its_slices_by_their_own_handles(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    CutDriver(monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = probe(disk=tmp_path).gpus
    assert [(gpu.index, gpu.uuid, gpu.mig, gpu.memory_total_bytes // GIB) for gpu in found] == [
        (0, "MIG-0fed", True, 40),
        (1, "MIG-3fed", True, 40),
        (2, "GPU-10a1b2c3", False, 80),
    ]
    assert not any(gpu.nvlink for gpu in found)


@pytest.mark.parametrize(
    ("visible", "uuids"),
    [
        ("MIG-3fed", ["MIG-3fed"]),
        ("0", ["MIG-0fed", "MIG-3fed"]),
        ("GPU-00a1", ["MIG-0fed", "MIG-3fed"]),
        ("1", ["GPU-10a1b2c3"]),
    ],
)
def test_slices_are_hidden_by_their_own_names_or_by_their_card(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, visible: str, uuids: list[str]
) -> None:
    CutDriver(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.uuid for gpu in probe(disk=tmp_path).gpus] == uuids
