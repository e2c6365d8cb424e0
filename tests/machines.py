"""Machines as tests describe them: with a small processor, a tiny one, and one GPU."""

from tunesmith.tuning.hardware import Cpu, Gpu, HardwareProfile
from tunesmith.tuning.values.units import GIB

CPU = HardwareProfile(
    cpu=Cpu(model="test", cores=2, memory_total_bytes=16 * GIB, memory_free_bytes=12 * GIB),
    installed={"torch": "2.13.0", "bitsandbytes": "0.50.2"},
    disk_free_bytes=100 * GIB,
)
SMALL_CPU = CPU.model_copy(
    update={"cpu": Cpu(model="test", cores=1, memory_total_bytes=GIB // 4, memory_free_bytes=GIB // 8)}
)
ONE_GPU = CPU.model_copy(
    update={
        "gpus": (
            Gpu(
                index=0,
                name="NVIDIA A10G",
                memory_total_bytes=22 * GIB,
                memory_free_bytes=21 * GIB,
                compute_capability=(8, 6),
            ),
        )
    }
)
