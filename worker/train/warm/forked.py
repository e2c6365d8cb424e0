"""A fork of the warm process on its way to being a trainer: alone in its session, with nothing left of its parent's.

It passes a gate first: it says who it is, and goes on when the worker says so. A worker that has given up, or is dead,
has closed the gate, and so the fork ends before it has done anything.
"""

import contextlib
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

import numpy as np

from tunesmith.worker.fork_protocol import GATE, GO, LOCKS, OUTPUT, STANDARD_INPUT, ForkRequest
from tunesmith.worker.sandbox.enter import enter
from tunesmith.worker.train import environment
from tunesmith.worker.train.trainer import leave, train_here
from tunesmith.worker.train.warm.guard import open_descriptors
from tunesmith.worker.train.warm.visible import show_environment

ADOPTION_SECONDS = 10.0
_POLL_SECONDS = 0.0005


def fork_trainer(request: ForkRequest, descriptors: list[int]) -> str | None:
    """Fork twice, so that the trainer becomes its worker's own child; returns what went wrong, if anything did.

    Returns in the warm process alone.
    """
    try:
        intermediate = os.fork()
    except OSError as error:
        return f"cannot fork: {error.strerror}"
    if intermediate == 0:
        _leave_the_trainer_to_the_worker()
        _become(request, descriptors)
    _, status = os.waitpid(intermediate, 0)
    return f"cannot fork: {os.strerror(os.waitstatus_to_exitcode(status))}" if status else None


def _leave_the_trainer_to_the_worker() -> None:
    """In the intermediate process: fork again and end. Returns in the trainer alone."""
    try:
        trainer = os.fork()
    except OSError as error:
        os._exit(error.errno or 1)
    if trainer:
        os._exit(0)


def _become(request: ForkRequest, descriptors: list[int]) -> NoReturn:
    """Nothing may return or raise from here into the warm process's own loop, of which this is a copy."""
    try:
        _begin_alone(request, descriptors)
        code = train_here(Path(request.run_dir))
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    except BaseException:
        with contextlib.suppress(Exception):
            traceback.print_exc()
        code = 1
    leave(code)


def _begin_alone(request: ForkRequest, descriptors: list[int]) -> None:
    os.setsid()
    gate = _take_descriptors(descriptors)
    os.chdir(request.run_dir)
    _take_environment(request.environment)
    _pass(gate, worker_pid=request.worker_pid)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    if request.sandbox is not None:
        enter(request.sandbox)
        show_environment(os.environ)
    np.random.seed()  # as in a new process, until the plan's seed is set
    sys.argv = ["tunesmith.worker.train", request.run_dir]


def _take_descriptors(descriptors: list[int]) -> socket.socket:
    """Standard streams in their places, the slot's locks for this process and all that it starts, and nothing else."""
    gate = socket.socket(fileno=descriptors[GATE])
    for source, target in ((STANDARD_INPUT, 0), (OUTPUT, 1), (OUTPUT, 2)):
        os.dup2(descriptors[source], target)
    kept = {0, 1, 2, gate.fileno(), *descriptors[LOCKS:]}
    for descriptor in open_descriptors().keys() - kept:
        os.close(descriptor)
    for lock in descriptors[LOCKS:]:
        os.set_inheritable(lock, True)
    return gate


def _take_environment(variables: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)
    environment.set_process_defaults()
    show_environment(os.environ)
    Path("/proc/self/comm").write_text("trainer", encoding="utf-8")


def _pass(gate: socket.socket, *, worker_pid: int) -> None:
    """Wait to be adopted, say so, and wait for leave to go on.

    Raises:
        SystemExit: the worker has closed the gate, or never adopted this process.
    """
    deadline = time.monotonic() + ADOPTION_SECONDS
    while os.getppid() != worker_pid:
        if time.monotonic() > deadline:
            raise SystemExit(1)
        time.sleep(_POLL_SECONDS)
    with gate:
        gate.send(str(os.getpid()).encode())
        if gate.recv(len(GO)) != GO:
            raise SystemExit(1)
