"""What a trainer's memory does over steps of ever other shapes, on a CPU: `malloc` in use, resident, and the peak.

    python -m benchmarks.training.varied_shapes WORKLOAD_DIR [--steps 20] [--same-shape]

One thread, LoRA rank 16, random tokens, one micro-step of up to 1,024 tokens a step. Environment variables that bound
the caches of prepared products (`LRU_CACHE_CAPACITY`, `ONEDNN_PRIMITIVE_CACHE_CAPACITY`) are taken from outside if set.
"""

import argparse
import ctypes
import random
import time
from pathlib import Path

from tunesmith.worker.train import environment  # noqa: F401 - settles the libraries' settings before they load

import numpy as np  # isort: skip
import torch  # isort: skip

from benchmarks.training.ours import plan_for  # isort: skip
from tunesmith.worker.train.adapters.adapter import attach_adapter  # isort: skip
from tunesmith.worker.train.data.rows import Rows  # isort: skip
from tunesmith.worker.train.adapters.fuse import fuse  # isort: skip
from tunesmith.worker.train.models.model import Learner, load_model  # isort: skip
from tunesmith.worker.train.loop.objectives import supervised  # isort: skip
from tunesmith.worker.train.optim.optimizer import MasterOptimizer  # isort: skip
from tunesmith.worker.train.data.packing import pack  # isort: skip

CPU = torch.device("cpu")
TOKENS = 1024
MIB = 2**20


class _Malloc(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--same-shape", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    _, _, plan = plan_for(arguments.workload.resolve(), method="lora", rows_per_step=8)
    base = load_model(arguments.workload.resolve() / "model", plan=plan, device=CPU)
    assert plan.lora is not None
    model = attach_adapter(base, plan.lora, continue_from=None, seed=0)
    fuse(model)
    learner = Learner(model).train()
    masters = MasterOptimizer(learner.trainable(), plan=plan)
    source = random.Random(1)
    tokens, began = 0, time.process_time()
    for step in range(arguments.steps):
        lengths = [128] * (TOKENS // 128) if arguments.same_shape else _lengths(source)
        batch = pack(range(len(lengths)), _rows(lengths, seed=step), device=CPU)
        sums = supervised().sums(learner, batch)
        (sums.loss / batch.supervised_tokens).backward()
        masters.clip(1.0)
        masters.step(learning_rate=1e-4)
        del sums, batch
        tokens += sum(lengths)
        print(f"step {step + 1:3}  {sum(lengths):5} tokens  in use {_in_use_mib():5.0f} MiB  {_resident()}", flush=True)
    print(f"{tokens / (time.process_time() - began):.0f} tokens per CPU second")


def _lengths(source: random.Random) -> list[int]:
    """Lognormal rows that fill a micro-step; every other step about half of it."""
    lengths: list[int] = []
    room = TOKENS
    while room >= 32:
        lengths.append(min(room, max(16, int(source.lognormvariate(4.9, 0.7)))))
        room -= lengths[-1]
    return lengths[: max(1, len(lengths) // 2)] if source.random() < 0.5 else lengths


def _rows(lengths: list[int], *, seed: int) -> Rows:
    total = sum(lengths)
    return Rows(
        tokens=np.random.default_rng(seed).integers(3, 7000, total).astype(np.int32),
        supervised=np.ones(total, bool),
        offsets=np.cumsum([0, *lengths]).astype(np.int64),
        line_numbers=np.arange(len(lengths)),
    )


def _in_use_mib() -> float:
    libc = ctypes.CDLL("libc.so.6")
    libc.mallinfo2.restype = _Malloc
    report = libc.mallinfo2()
    return float(report.uordblks + report.hblkhd) / MIB


def _resident() -> str:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    resident, peak = (int(status[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return f"resident {resident:.0f} MiB, peak {peak:.0f} MiB"


if __name__ == "__main__":
    main()
