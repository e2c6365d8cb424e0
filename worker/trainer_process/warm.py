"""The warm process as the worker holds it: started early, asked for forks, replaced when it dies, done without in need.

Forks become children of this process, not of the warm one, so their exit codes arrive here whatever happens to it.
"""

import contextlib
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from tunesmith.tuning.codes import RUN_DIRECTORY_VARIABLE
from tunesmith.worker.fork_protocol import GO, ROOM, ROOM_BYTES, ForkRequest, Word, ask, differing, hear
from tunesmith.worker.sandbox.definition import Sandbox
from tunesmith.worker.trainer_process.processes import AdoptedProcess, adopt_orphans, mark_of
from tunesmith.worker.trainer_process.victim import be_killed_first

log = structlog.get_logger(__name__)

COMMAND = (sys.executable, "-P", "-m", "tunesmith.worker.train.warm")
START_SECONDS = 120.0  # of imports, on a machine that has other things to do; a plain start would take as long
FORK_SECONDS = 10.0
EXCUSE_SECONDS = 1.0
KILL_SECONDS = 5.0
MOST_FAILURES = 3  # in a row, before a worker does without for the rest of its life
_LOOK_SECONDS = 0.1
# What a fork may have otherwise than the warm process, because no library reads it while it is imported.
_PER_JOB = frozenset({RUN_DIRECTORY_VARIABLE, "CUDA_VISIBLE_DEVICES", ROOM})


class NotWarm(Exception):
    """There is no fork to be had now, and why: the trainer must be started plainly."""


@dataclass(frozen=True)
class Ends:
    """The descriptors that a trainer gets: its lifeline as standard input, its output, the locks of its slot."""

    standard_input: int
    output: int
    locks: tuple[int, ...]


class WarmTrainer:
    """One warm process for all trainers that this process starts, one after another. Not safe to use from two threads.

    `environment` is that of a trainer; a job whose own differs in more than its devices is refused a fork.
    """

    def __init__(self, *, environment: Mapping[str, str], command: tuple[str, ...] = COMMAND) -> None:
        self._environment = {name: value for name, value in environment.items() if name != RUN_DIRECTORY_VARIABLE}
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._is_ready = False
        self._failures = 0

    @property
    def pid(self) -> int | None:
        """Of the warm process, while there is one."""
        return self._process.pid if self._process is not None else None

    def keep(self) -> None:
        """Start the warm process unless it lives. Returns at once; the imports take seconds.

        Call it from the main thread: the kernel ends the warm process with the thread that started it.
        """
        if self._process is not None and self._process.poll() is None:
            return
        if self._process is not None:
            self._fail("the warm process died")
        if self._failures < MOST_FAILURES:
            self._start()

    def fork(
        self,
        run_dir: str,
        environment: Mapping[str, str],
        ends: Ends,
        *,
        sandbox: Sandbox | None = None,
        hurry: Callable[[], bool],
    ) -> AdoptedProcess:
        """A new trainer, which runs when this returns, in the sandbox if there is one.

        `hurry` returning True ends the wait for one still warming up.

        Raises:
            NotWarm: there is none to be had; nothing was started.
        """
        names = differing(environment, self._environment, but=_PER_JOB)
        if names:
            raise NotWarm(f"this job's environment differs in {', '.join(names)}")
        control = self._ready_control(hurry)
        here, there = socket.socketpair()
        with here:
            with there:
                request = ForkRequest(
                    run_dir=run_dir, environment=dict(environment), worker_pid=os.getpid(), sandbox=sandbox
                )
                self._ask(control, request, ends, gate=there)
            return self._let_through(here, control, run_dir)

    def close(self) -> None:
        """End the warm process. Trainers that were forked from it run on."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(KILL_SECONDS)
            self._process = None
        self._is_ready = False

    def _start(self) -> None:
        adopt_orphans()
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with there:
            try:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=there.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={**self._environment, ROOM: "." * ROOM_BYTES},
                    start_new_session=True,
                )
            except OSError as error:
                here.close()
                self._fail(f"the warm process cannot be started: {error.strerror}")
                return
        be_killed_first(self._process.pid)
        self._control, self._is_ready = here, False

    def _ready_control(self, hurry: Callable[[], bool]) -> socket.socket:
        if self._control is None:
            raise NotWarm("there is no warm process")
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready:
            if hurry():
                raise NotWarm("it is still importing and the worker cannot wait")
            if time.monotonic() > deadline:
                raise self._failure(f"it was not ready within {START_SECONDS:.0f} s")
            if _readable(self._control, seconds=_LOOK_SECONDS):
                self._take_in(self._control)
        return self._control

    def _take_in(self, control: socket.socket) -> None:
        """A message in which it says that it is ready, or why it never will be."""
        word = self._hear(control)
        if not word.ready:
            raise self._failure(word.refused or "it said nothing")
        self._is_ready = True

    def _ask(self, control: socket.socket, request: ForkRequest, ends: Ends, *, gate: socket.socket) -> None:
        try:
            ask(control, request, [ends.standard_input, ends.output, gate.fileno(), *ends.locks])
        except OSError as error:
            raise self._failure(f"it is gone ({error.strerror})") from error

    def _let_through(self, gate: socket.socket, control: socket.socket, run_dir: str) -> AdoptedProcess:
        """Wait for the fork at the gate, look whether it is what it should be, and let it go on.

        Closing the gate on any other way out of here ends the fork, if there is one.
        """
        readable, _, _ = select.select([gate, control], [], [], FORK_SECONDS)
        if not readable:
            raise self._failure(f"it did not answer within {FORK_SECONDS:.0f} s")
        said = gate.recv(32) if gate in readable else b""
        if not said:
            raise self._failure(self._excuse(control))
        trainer = AdoptedProcess(int(said))
        if not trainer.is_ours() or mark_of(trainer.pid) != run_dir:
            raise self._failure("the fork does not carry the mark of its run")
        try:
            gate.send(GO)
        except OSError as error:
            raise self._failure("the fork ended before it began") from error
        self._failures = 0
        return trainer

    def _excuse(self, control: socket.socket) -> str:
        """Why there is no fork at the gate, or none any more."""
        refused = self._hear(control).refused if _readable(control, seconds=EXCUSE_SECONDS) else None
        return refused or "the fork ended before it began"

    def _hear(self, control: socket.socket) -> Word:
        try:
            word = hear(control)
        except (OSError, ValueError) as error:
            raise self._failure(f"it cannot be understood ({type(error).__name__})") from error
        if word is None:
            raise self._failure("it died")
        return word

    def _failure(self, reason: str) -> NotWarm:
        self._fail(reason)
        return NotWarm(reason)

    def _fail(self, reason: str) -> None:
        """Be rid of it; `keep` starts another unless it has failed too often."""
        self.close()
        self._failures += 1
        log.warning("warm_trainer.failed", reason=reason, given_up=self._failures >= MOST_FAILURES)


def _readable(source: socket.socket, *, seconds: float) -> bool:
    readable, _, _ = select.select([source], [], [], seconds)
    return bool(readable)
