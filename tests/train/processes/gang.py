"""Runs of several processes one after another, forked from a warm one: importing takes longer than these runs train.

Reads a list of `Job` from standard input as JSON, writes the exit codes of each to standard output.
"""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, TypedDict

from tests.ports import free_port
from tests.waiting import PATIENCE_SECONDS
from tunesmith.worker.run_directory import RunDirectory


class Job(TypedDict, total=False):
    run: str
    processes: int
    kill_at_step: int  # SIGKILL to all as soon as this step is on record, and a checkpoint whole
    kill_only: int  # the one process that it goes to
    weighs: (
        bool  # each process writes what its 8-bit tensors take when training begins, as bytes-RANK in the run's folder
    )
    tokens_that_fit: int  # memory of the last process ends beyond so many tokens in a micro-step
    memory_ends_in_backward: int  # of the last process, in this of its backward passes, halfway, once
    bucket_bytes: int  # of gradients that are summed together
    tokenises: int  # the one process that may


def train_all(jobs: list[Job]) -> list[list[int]]:
    """Exit codes of the processes of each job."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.processes.gang"],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"},
        cwd=Path(__file__).parents[3],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    codes: list[list[int]] = json.loads(done.stdout.splitlines()[-1])
    return codes


def main() -> None:
    jobs: list[Job] = json.load(sys.stdin)
    import deepspeed  # noqa: F401

    from tunesmith.worker.train.methods import lora  # noqa: F401

    gc.collect()
    gc.freeze()  # a collection in a fork would otherwise write to, and so copy, every page
    print(json.dumps([_codes(job) for job in jobs]))


def _codes(job: Job) -> list[int]:
    directory, processes = RunDirectory(Path(job["run"])), job.get("processes", 2)
    port = free_port()
    started = [_fork(directory, job, rank, processes, port) for rank in range(processes)]
    deadline = time.monotonic() + PATIENCE_SECONDS
    codes: dict[int, int] = {}
    while len(codes) < processes:
        for pid in started:
            if pid not in codes and (ended := os.waitpid(pid, os.WNOHANG))[0]:
                codes[pid] = os.waitstatus_to_exitcode(ended[1])
        kill_at = job.get("kill_at_step")
        is_due = kill_at and directory.last_step() >= kill_at and any(directory.checkpoints.glob("step-*"))
        if time.monotonic() > deadline:
            _kill(set(started) - set(codes))
        elif is_due:
            only = job.get("kill_only")
            _kill((set(started) if only is None else {started[only]}) - set(codes))
        time.sleep(0.005)
    return [codes[pid] for pid in started]


def _kill(processes: set[int]) -> None:
    for pid in processes:
        os.kill(pid, signal.SIGKILL)


def _fork(directory: RunDirectory, job: Job, rank: int, processes: int, port: int) -> int:
    if pid := os.fork():
        return pid
    code = 99
    try:
        log = os.open(directory.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if processes > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
            os.environ |= {"LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        if "tokens_that_fit" in job and rank == processes - 1:
            _end_memory_above(job["tokens_that_fit"])
        if "memory_ends_in_backward" in job and rank == processes - 1:
            _end_memory_in_backward(job["memory_ends_in_backward"])
        if job.get("tokenises", rank) != rank:
            from tunesmith.worker.train import session

            session.load_rows = _refuse
        if job.get("weighs"):
            _weigh_before_training(directory.root / f"bytes-{rank}")
        if "bucket_bytes" in job:
            from tunesmith.worker.train.optim import optimizer

            optimizer.GRADIENT_BUCKET_BYTES = job["bucket_bytes"]
        from tunesmith.worker.train.session import train_to_result

        code = train_to_result(directory.request(), directory)
    finally:
        os._exit(code)


def _refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("this process should not have tokenised")


def bytes_of_8_bit_tensors() -> int:
    """What this process holds of them, each storage once."""
    import torch

    found = {}
    for thing in gc.get_objects():
        if torch.Tensor in type(thing).__mro__ and thing.dtype == torch.uint8:
            found[thing.untyped_storage()._cdata] = thing.untyped_storage().nbytes()
    return sum(found.values())


def _weigh_before_training(file: Path) -> None:
    from tunesmith.worker.train.loop import loop

    train = loop.train

    def weighed(*given: Any, **named: Any) -> Any:
        file.write_text(str(bytes_of_8_bit_tensors()))
        return train(*given, **named)

    loop.train = weighed


def _end_memory_above(tokens: int) -> None:
    import torch

    from tunesmith.worker.train.models.model import Learner

    forward = Learner.forward

    def forward_if_it_fits(learner: Learner, batch: Any, *loss_function: Any) -> Any:
        if batch.rows and batch.tokens > tokens:
            raise torch.OutOfMemoryError("out of memory")
        return forward(learner, batch, *loss_function)

    Learner.forward = forward_if_it_fits


def _end_memory_in_backward(number: int) -> None:
    import torch

    from tunesmith.worker.train.models.model import Learner

    forward, passes = Learner.forward, 0

    def fail(_: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("out of memory")

    def counted(learner: Learner, *inputs: Any) -> Any:
        nonlocal passes
        if not torch.is_grad_enabled():
            return forward(learner, *inputs)
        passes += 1
        if passes != number:
            return forward(learner, *inputs)
        layer = learner.causal_model.get_decoder().layers[-1]
        handle = layer.register_forward_pre_hook(lambda _, states: states[0].register_hook(fail) and None)
        try:
            return forward(learner, *inputs)
        finally:
            handle.remove()

    Learner.forward = counted


if __name__ == "__main__":
    main()
