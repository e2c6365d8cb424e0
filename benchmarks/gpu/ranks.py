"""(e) Two processes on one device: gradients of their shares add up to those of one process over all rows.

NCCL refuses two ranks on one GPU, so they meet through gloo, which takes CUDA tensors by way of the host: the code
paths of several processes are tried here, not their speed.
"""

import os
import socket
from pathlib import Path
from typing import Any

from benchmarks.gpu import shapes
from benchmarks.gpu.setting import Setting

PROCESSES = 2
LENGTHS = ([40, 24], [33, 31])  # each process's rows


def run(setting: Setting) -> None:
    """Sums and norms by two processes and by one; the test that the peak of each is what it was alone is elsewhere."""
    setting.tried(lambda: _compare(setting), case="full, tiny Llama", backend="gloo", processes=PROCESSES)


def _compare(setting: Setting) -> dict[str, Any]:
    import torch
    import torch.multiprocessing

    folder = setting.out / "ranks"
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_process, args=(setting.device, port, str(folder)), nprocs=PROCESSES)
    alone = _gradients(setting.device, [length for lengths in LENGTHS for length in lengths], own=None)
    shared = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]
    for file in folder.glob("*.pt"):
        file.unlink()
    folder.rmdir()
    difference = max(
        float((one - other).abs().max() / other.abs().max().clamp(min=1e-12))
        for one, other in zip(shared[0], alone, strict=True)
    )
    equal = all(torch.equal(one, other) for one, other in zip(*shared, strict=True))
    if not equal or difference > 0.02:
        raise RuntimeError(f"gradients differ by {difference:.1%} from one process's; equal among processes: {equal}")
    return {"difference": difference, "equal_among_processes": equal}


def _process(rank: int, device: str, port: int, folder: str) -> None:
    import torch
    import torch.distributed

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=PROCESSES)
    found = _gradients(device, LENGTHS[rank], own=rank)
    torch.save(found, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def _gradients(device: str, lengths: list[int], *, own: int | None) -> list[Any]:
    """The masters' fp32 gradients of the mean over all rows, summed over processes where there are several."""
    import torch

    from tunesmith.worker.train.kernels.loss import summed_cross_entropy

    config = shapes.TINY
    learner = shapes.build(config, method="full", device=device, attention="blocked" if device == "cpu" else "sdpa")
    masters = shapes.optimizer_of(learner, method="full", processes=1 if own is None else PROCESSES)
    every = [length for each in LENGTHS for length in each]
    rows = shapes.batch(every, vocabulary=config["vocab_size"], device=device)
    if own is not None:
        rows = _share(rows, lengths, before=sum(sum(each) for each in LENGTHS[:own]))
    total = sum(length - 1 for length in every)
    masters.backward(learner(rows, summed_cross_entropy).loss / total, last=True)
    if own is not None:
        masters.sum_over_processes()
    masters.clip(1.0)
    return [gradient.to("cpu", torch.float32) for gradient in masters.gradients()]


def _share(rows: Any, lengths: list[int], *, before: int) -> Any:
    """One process's rows of a batch."""
    from dataclasses import replace

    from tunesmith.worker.train.attention.segments import Segments

    tokens = slice(before, before + sum(lengths))
    chosen = (rows.target_positions >= tokens.start) & (rows.target_positions < tokens.stop)
    return replace(
        rows,
        input_ids=rows.input_ids[:, tokens],
        position_ids=rows.position_ids[:, tokens],
        target_positions=rows.target_positions[chosen] - before,
        labels=rows.labels[chosen],
        target_sequences=rows.target_sequences[chosen],
        segments=Segments.of(lengths, device=rows.input_ids.device),
    )
