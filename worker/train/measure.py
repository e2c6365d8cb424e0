"""Measure what no formula gives and write it as JSON.

    python -m tunesmith.worker.train.measure OUT_FILE [GPU_UUID]

Run once for a machine and its libraries, by the worker, while nothing else trains there.
"""

import sys
from pathlib import Path
from typing import Any

from tunesmith.tuning.hardware import MachineConstants
from tunesmith.worker.train import environment  # noqa: F401 - before torch

_ALLOCATOR_LAYERS = 8
_ALLOCATOR_TOKENS, _ALLOCATOR_WIDTH = 4096, 4096
_ALLOCATOR_NEEDS_BYTES = 4 * 1024**3
# Other processes may take or give back GPU memory while the context is measured: what lies outside says so.
_PLAUSIBLE_CONTEXT_BYTES = range(64 * 1024**2, 4 * 1024**3)


def main() -> int:
    """Import what a trainer imports, measure, write."""
    out, gpu = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None
    sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # as for a trainer that needs no 4-bit weights
    import tunesmith.worker.train.methods.lora
    import tunesmith.worker.train.session  # noqa: F401

    constants = measure(gpu)
    from tunesmith.worker.run_directory import write_atomically

    write_atomically(out, constants.model_dump_json())
    return 0


def measure(gpu: str | None) -> MachineConstants:
    """The constants of this machine, of one GPU by its UUID or of the processor."""
    import torch

    from tunesmith.worker.train.profiling.rates import matmul_flops_per_second

    before = _used_bytes(gpu) if gpu else 0
    device = torch.device("cuda" if gpu else "cpu")
    narrow = torch.bfloat16 if not gpu or torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    rates = {
        "matmul_16bit_flops_per_second": matmul_flops_per_second(narrow, device=device),
        "matmul_fp32_flops_per_second": matmul_flops_per_second(torch.float32, device=device),
    }
    process_bytes = resident_bytes()  # only now: the first products load and compile their kernels
    found: dict[str, Any] = _gpu_constants(gpu, used_before_bytes=before) if gpu else {}
    return MachineConstants(process_bytes=process_bytes, threads=torch.get_num_threads(), **rates, **found)


def resident_bytes() -> int:
    """Memory that this process holds now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def _gpu_constants(gpu: str, *, used_before_bytes: int) -> dict[str, Any]:
    """Context, workspace and allocator slack; the matrix products before have loaded the libraries."""
    import torch

    torch.cuda.synchronize()
    workspace = torch.cuda.memory_allocated()  # the products' tensors are gone: what is left belongs to cuBLAS
    context = _used_bytes(gpu) - used_before_bytes - torch.cuda.memory_reserved()
    return {
        "cuda_context_bytes": context if context in _PLAUSIBLE_CONTEXT_BYTES else None,
        "cuda_workspace_bytes": workspace,
        "allocator_slack": _allocator_slack() if torch.cuda.mem_get_info()[0] > _ALLOCATOR_NEEDS_BYTES else None,
    }


def _used_bytes(gpu: str) -> int:
    """Memory in use on the GPU, by everyone, without making a context on it."""
    import pynvml

    pynvml.nvmlInit()
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(gpu)).used)
    finally:
        pynvml.nvmlShutdown()


def _allocator_slack() -> float:
    """What the allocator reserves beyond what it hands out, over some steps of a small deep network."""
    import torch

    width = _ALLOCATOR_WIDTH
    layers = [
        torch.nn.Sequential(torch.nn.Linear(width, 3 * width), torch.nn.SiLU(), torch.nn.Linear(3 * width, width))
    ]
    layers *= _ALLOCATOR_LAYERS  # shared weights: activations are what fragments
    model = torch.nn.Sequential(*layers).to(device="cuda", dtype=torch.float16)
    torch.cuda.reset_peak_memory_stats()
    for tokens in (_ALLOCATOR_TOKENS, _ALLOCATOR_TOKENS // 3, _ALLOCATOR_TOKENS - 100):
        model(torch.zeros(tokens, width, device="cuda", dtype=torch.float16)).sum().backward()
    return min(1.0, max(0.0, torch.cuda.max_memory_reserved() / torch.cuda.max_memory_allocated() - 1))


if __name__ == "__main__":
    sys.exit(main())
