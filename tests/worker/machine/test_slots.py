"""A slot is free exactly when nobody who could touch its devices is alive."""

import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.tuning.hardware import Cpu, Gpu, HardwareProfile
from tunesmith.tuning.values.units import GIB
from tunesmith.worker.machine.slots import Slots, UnsafeLocks, gpu_locks, hardware_of_slot, slots_of

CPU = Cpu(model="test", cores=8, memory_total_bytes=64 * GIB, memory_free_bytes=60 * GIB)


def with_gpus(count: int) -> HardwareProfile:
    gpus = tuple(
        Gpu(index=i, name="T", memory_total_bytes=GIB, memory_free_bytes=GIB, compute_capability=(8, 0))
        for i in range(count)
    )
    return HardwareProfile(gpus=gpus, cpu=CPU)


def test_a_slot_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    slots = Slots(tmp_path, (("cpu-0",),))
    slot = slots.acquire()
    assert slot is not None
    assert slots.acquire() is None
    assert slots.busy() == 1
    slot.release()
    assert slots.busy() == 0
    assert slots.acquire() is not None


def test_a_slot_stays_taken_until_the_last_process_that_inherited_it_is_dead(tmp_path: Path) -> None:
    slots = Slots(tmp_path, (("cpu-0",),))
    slot = slots.acquire()
    assert slot is not None
    grandchild = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()'], close_fds=False)"
    script = f"{grandchild}; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], pass_fds=slot.descriptors, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        try:
            slot.release()
            assert slots.acquire() is None
            assert child.stdout is not None
            child.stdout.readline()  # the grandchild has been started
            child.kill()
            child.wait()
            assert slots.acquire() is None, "the grandchild still lives"
        finally:
            child.kill()
    assert slots.acquire(wait_seconds=60) is not None, "the grandchild has read the end of its input"


def test_waiting_for_a_slot_is_bounded(tmp_path: Path) -> None:
    slots = Slots(tmp_path, (("cpu-0",),))
    held = slots.acquire()
    now = [0.0]
    assert slots.acquire(wait_seconds=3, clock=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s)) is None
    assert 3 <= now[0] < 4
    assert held is not None


def test_a_slot_of_several_gpus_needs_all_of_them(tmp_path: Path) -> None:
    pair = slots_of(with_gpus(2), count=1, folder=tmp_path, shared=tmp_path)
    single = slots_of(with_gpus(2), count=2, folder=tmp_path, shared=tmp_path)
    first = single.acquire()
    assert first is not None
    assert pair.acquire() is None
    first.release()
    assert pair.acquire() is not None
    assert single.busy() == 2


def test_two_workers_on_one_host_never_hold_the_same_gpu(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        folder.mkdir()
    shared = gpu_locks({"XDG_RUNTIME_DIR": str(tmp_path)})
    first, second = (slots_of(with_gpus(1), count=1, folder=folder, shared=shared) for folder in folders)
    held = first.acquire()
    assert held is not None
    assert second.acquire() is None
    assert (second.busy(), gpu_locks({"XDG_RUNTIME_DIR": str(tmp_path)})) == (1, shared)
    held.release()
    assert second.acquire() is not None


def test_locks_that_somebody_else_could_hold_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tunesmith-gpus").mkdir(mode=0o777)
    (tmp_path / "tunesmith-gpus").chmod(0o777)
    with pytest.raises(UnsafeLocks, match="this user's alone"):
        gpu_locks({"XDG_RUNTIME_DIR": str(tmp_path)})


def test_a_slot_offers_only_its_share_of_the_host() -> None:
    host = with_gpus(4)
    second = hardware_of_slot(host, index=1, count=2)
    assert [gpu.index for gpu in second.gpus] == [2, 3]
    assert second.cpu.cores == 4
    assert second.cpu.memory_total_bytes == 32 * GIB
    assert second.cpu.memory_free_bytes == 32 * GIB


def test_gpus_that_cannot_be_shared_out_evenly_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="TUNESMITH_SLOTS=2"):
        slots_of(with_gpus(3), count=2, folder=tmp_path, shared=tmp_path)
