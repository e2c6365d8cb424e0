"""Starts a trainer as a process group of its own that cannot outlive this worker, and stops it by a ladder."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import structlog

from tunesmith import faults
from tunesmith.tuning.codes import RUN_DIRECTORY_VARIABLE
from tunesmith.tuning.plan import Plan
from tunesmith.worker import openmp
from tunesmith.worker.machine.slots import Slot
from tunesmith.worker.run_directory import RunDirectory
from tunesmith.worker.sandbox.choice import sandboxed
from tunesmith.worker.sandbox.definition import Sandbox
from tunesmith.worker.trainer_process.log_file import TrainerLog
from tunesmith.worker.trainer_process.processes import kill_tree, record_trainer, terminate_group
from tunesmith.worker.trainer_process.victim import be_killed_first
from tunesmith.worker.trainer_process.warm import Ends, NotWarm, WarmTrainer

log = structlog.get_logger(__name__)

How = Literal["plain", "warm"]

POLL_SECONDS = 0.1
KILL_WAIT_SECONDS = 30.0
LIFELINE_FD = 0  # standard input: it reaches every rank through launchers that close all other descriptors

# The trainer gets these of the worker's environment and nothing else: no worker key, no broker, no cloud credentials.
_INHERITED = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH",
    "CUDA_HOME", "CUDA_PATH", "TRITON_CACHE_DIR", "XDG_CACHE_HOME", "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES", "CC", faults.VARIABLE, faults.FOLDER_VARIABLE,
)  # fmt: skip
_INHERITED_PREFIXES = (
    "NCCL_", "OMP_", "GOMP_", "KMP_", "MKL_", "TORCHINDUCTOR_",
    "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF",  # how an operator shapes the allocator; the second is the old name
)  # fmt: skip


class Process(Protocol):
    """A child of this process, with the names that `subprocess.Popen` has for them."""

    @property
    def pid(self) -> int:
        """Its number."""
        ...

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, when it has ended."""
        ...


@dataclass
class Trainer:
    """A running trainer. The worker holds the only write end of its lifeline."""

    process: Process
    run: RunDirectory
    log: TrainerLog
    record: Path
    lifeline: int
    start: How = "plain"

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative when a signal ended it."""
        return self.process.poll()

    def stop(self, *, grace_seconds: float, terminate_seconds: float, check: Callable[[], bool]) -> int:
        """Stop file, then SIGTERM, then SIGKILL of the whole tree; each rung waits for the one before.

        `check` returning True skips what is left of a wait: something more urgent has come up.
        """
        self.run.ask_to_stop()
        if not self._gone_within(grace_seconds, check):
            terminate_group(self.process.pid)
            self._gone_within(terminate_seconds, check)
        return self.end()

    def end(self) -> int:
        """Leave no process of the tree alive, close the log and the lifeline, and return the exit code.

        Raises:
            subprocess.TimeoutExpired: the kernel does not let go of the process; its slot stays taken.
        """
        kill_tree(self.process.pid, run_dir=self.run.root, wait_seconds=KILL_WAIT_SECONDS)
        code = self.process.wait(timeout=KILL_WAIT_SECONDS)
        self.log.close()
        if self.lifeline >= 0:
            os.close(self.lifeline)
            self.lifeline = -1
        self.record.unlink(missing_ok=True)
        return code

    def _gone_within(self, seconds: float, check: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + seconds
        while self.exit_code is None:
            if time.monotonic() > deadline or check():
                return False
            time.sleep(POLL_SECONDS)
        return True


def launch(
    run: RunDirectory,
    plan: Plan,
    *,
    slot: Slot,
    cores: int,
    devices: tuple[str, ...],
    records: Path,
    log_cap_bytes: int,
    sandbox: Sandbox | None = None,
    warm: WarmTrainer | None = None,
    hurry: Callable[[], bool] = lambda: False,
) -> Trainer:
    """Start the trainer of a prepared run directory on the devices of a slot, whose locks its tree inherits.

    A run in one process is forked from the warm one where that can be had. `hurry` ends the wait for one still warming.
    """
    environment = trainer_environment(
        os.environ, run_dir=run.root, cores=max(1, cores // plan.world_size), devices=devices
    )
    return start(
        trainer_command(run.root, world_size=plan.world_size),
        run,
        environment=environment,
        slot=slot,
        records=records,
        log_cap_bytes=log_cap_bytes,
        sandbox=sandbox,
        fork=(
            partial(warm.fork, str(run.root), environment, sandbox=sandbox, hurry=hurry)
            if warm and plan.world_size == 1
            else None
        ),
    )


def start(
    command: list[str],
    run: RunDirectory,
    *,
    environment: Mapping[str, str],
    slot: Slot,
    records: Path,
    log_cap_bytes: int,
    sandbox: Sandbox | None = None,
    fork: Callable[[Ends], Process] | None = None,
) -> Trainer:
    """Start any command as the trainer of a run directory, in a session of its own; rather a fork, if there is one.

    A `fork` goes into its sandbox by itself.
    """
    command = sandboxed(sandbox, command) if sandbox else command
    lifeline_read, lifeline_write = os.pipe()
    output_read, output_write = os.pipe()
    ends = Ends(standard_input=lifeline_read, output=output_write, locks=slot.descriptors)
    try:
        process, how = _begin(command, run, environment, ends, fork)
    except BaseException:
        os.close(lifeline_write)
        os.close(output_read)
        raise
    finally:
        os.close(lifeline_read)
        os.close(output_write)
    be_killed_first(process.pid)
    record = record_trainer(records, name=run.root.name, pid=process.pid, run_dir=run.root)
    trainer_log = TrainerLog(run.log, cap_bytes=log_cap_bytes)
    trainer_log.follow(output_read)
    return Trainer(process=process, run=run, log=trainer_log, record=record, lifeline=lifeline_write, start=how)


def _begin(
    command: list[str],
    run: RunDirectory,
    environment: Mapping[str, str],
    ends: Ends,
    fork: Callable[[Ends], Process] | None,
) -> tuple[Process, How]:
    if fork is not None:
        try:
            return fork(ends), "warm"
        except NotWarm as reason:
            log.info("trainer.not_forked", reason=str(reason), run_dir=str(run.root))
    process = subprocess.Popen(
        command,
        stdin=ends.standard_input,
        stdout=ends.output,
        stderr=ends.output,
        env=environment,
        cwd=run.root,
        pass_fds=ends.locks,
        start_new_session=True,
    )
    return process, "plain"


def trainer_command(run_dir: Path, *, world_size: int) -> list[str]:
    """The argument list. Several processes start through torchrun, whose watch names the one that died first."""
    if world_size == 1:
        return [sys.executable, "-P", "-m", "tunesmith.worker.train", str(run_dir)]
    return [sys.executable, "-P", "-m", "tunesmith.worker.train.ranks", str(run_dir), "--processes", str(world_size)]


def trainer_environment(
    inherited: Mapping[str, str], *, run_dir: Path, cores: int, devices: tuple[str, ...]
) -> dict[str, str]:
    """Build the trainer's environment from an allow-list. An empty `devices` means: no GPU."""
    kept = {
        name: value for name, value in inherited.items() if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
    }
    return kept | {
        RUN_DIRECTORY_VARIABLE: str(run_dir),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(devices),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        openmp.THREADS: str(openmp.allowed_threads(cores, kept)),
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",
    }
