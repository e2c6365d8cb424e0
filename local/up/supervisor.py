"""Ordered children: start them, start them again when they die, stop them in reverse order."""

import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tunesmith.local.embedded.errors import EmbeddedError, ServerFailed
from tunesmith.local.embedded.process import Command, spawn, tail
from tunesmith.local.up import logs
from tunesmith.local.up.restart import decide
from tunesmith.local.up.signals import StopSignals

_TICK_SECONDS = 0.2
_STARTING_TICK_SECONDS = 0.01
_LOG_CHECK_SECONDS = 5.0
_HURRY_SECONDS = 5.0


def _nothing() -> None:
    return None


def _explain(log: Path) -> EmbeddedError:
    return ServerFailed(f"It ended at once; its last words:\n{tail(log, lines=6)}", hint=f"the whole story is in {log}")


@dataclass(frozen=True, kw_only=True)
class Service:
    """One process to keep alive. `ready` is asked after a start; `explain` turns a failed first start into an error."""

    name: str
    command: Callable[[], Command]
    log: Path
    ready: Callable[[subprocess.Popen[bytes]], bool] = lambda process: process.poll() is None
    before_start: Callable[[], object] = _nothing
    explain: Callable[[Path], EmbeddedError] = _explain
    stop_signal: signal.Signals = signal.SIGTERM
    hurry_signal: signal.Signals = signal.SIGTERM
    grace_seconds: float = 15.0


class Supervisor:
    """Keeps services alive until a stop is asked for. Single-threaded: everything happens inside its methods.

    It must live in the main thread: signals arrive there, and the kernel ends the children with the thread that
    started them. `tell` receives one line for the user at a time.
    """

    def __init__(
        self, *, signals: StopSignals, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._signals = signals
        self._tell = tell
        self._clock = clock
        self._children: list[_Child] = []
        self._logs_checked_at = clock()

    def start(self, service: Service) -> None:
        """Start a service; from now on it is watched, and stopped before everything started earlier."""
        logs.rotate(service.log)
        child = _Child(service)
        self._children.append(child)
        child.start(now=self._clock())

    def wait_ready(self, *names: str, timeout_seconds: float) -> None:
        """Wait until the named services are ready for the first time.

        Raises EmbeddedError when one dies or the time is over, StopRequested when the user gives up.
        """
        waiting = [child for child in self._children if child.service.name in names]
        deadline = self._clock() + timeout_seconds
        while waiting := [child for child in waiting if not child.is_ready()]:
            self._signals.check()
            for child in waiting:
                if not child.runs():
                    raise child.service.explain(child.service.log)
            if self._clock() > deadline:
                raise _too_slow(waiting[0].service, timeout_seconds=timeout_seconds)
            self._signals.wait(_STARTING_TICK_SECONDS)

    def run(self) -> None:
        """Watch everything until somebody asks to stop."""
        while not self._signals.count:
            self.tick()
            self._signals.wait(_TICK_SECONDS)

    def tick(self) -> None:
        """One look at every child: note deaths, start what is due, bound the logs."""
        now = self._clock()
        for child in self._children:
            if child.due_at is not None and now >= child.due_at:
                self._start_again(child, now=now)
            elif child.due_at is None and not child.runs():
                self._plan_restart(child, now=now)
        if now - self._logs_checked_at >= _LOG_CHECK_SECONDS:
            self._logs_checked_at = now
            for child in self._children:
                logs.bound(child.service.log)

    def stop_all(self) -> None:
        """Stop every child, the last started first. A second request to stop cuts every grace period short."""
        requests_at_start = max(self._signals.count, 1)
        while self._children:
            self._stop(self._children.pop(), patience=requests_at_start)

    def pid(self, name: str) -> int | None:
        """The process id of a running service."""
        for child in self._children:
            if child.service.name == name and child.process is not None and child.runs():
                return child.process.pid
        return None

    def _plan_restart(self, child: "_Child", *, now: float) -> None:
        restart = decide(lived_seconds=now - child.started_at, early_deaths=child.early_deaths)
        child.early_deaths = restart.early_deaths
        child.due_at = now + restart.delay_seconds
        self._tell(f"{child.service.name} {child.how_it_ended()}; starting it again in {restart.delay_seconds:.1f} s")
        if restart.looping:
            self._tell(f"{restart.reason}. The end of {child.service.log}:\n{_indented(tail(child.service.log))}")

    def _start_again(self, child: "_Child", *, now: float) -> None:
        try:
            child.start(now=now)
        except (EmbeddedError, OSError) as error:  # a full disk, a program that is being upgraded: try again later
            self._tell(f"{child.service.name} cannot be started: {error}")
            child.fail_to_start(now=now)

    def _stop(self, child: "_Child", *, patience: int) -> None:
        if child.process is None or not child.runs():
            return
        child.process.send_signal(child.service.stop_signal)
        deadline, hurried = self._clock() + child.service.grace_seconds, False
        while child.runs() and self._clock() < deadline:
            self._signals.wait(_STARTING_TICK_SECONDS)
            if self._signals.count > patience and not hurried:
                hurried, deadline = True, min(deadline, self._clock() + _HURRY_SECONDS)
                child.process.send_signal(child.service.hurry_signal)
        if child.runs():
            self._tell(f"{child.service.name} does not stop: killing it")
            child.process.kill()
            child.process.wait(10)


class _Child:
    """A service and the process that runs it now. `due_at` is set while a restart is waiting."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.early_deaths = 0
        self.due_at: float | None = None

    def start(self, *, now: float) -> None:
        self.due_at = None
        self.started_at = now
        self.service.before_start()
        self.process = spawn(self.service.command(), log=self.service.log)

    def fail_to_start(self, *, now: float) -> None:
        restart = decide(lived_seconds=0.0, early_deaths=self.early_deaths)
        self.early_deaths = restart.early_deaths
        self.due_at = now + restart.delay_seconds

    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def is_ready(self) -> bool:
        return self.process is not None and self.runs() and self.service.ready(self.process)

    def how_it_ended(self) -> str:
        code = self.process.returncode if self.process is not None else None
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with status {code}"


def _too_slow(service: Service, *, timeout_seconds: float) -> ServerFailed:
    return ServerFailed(
        f"{service.name} was not ready within {timeout_seconds:.0f} s. The end of its log:\n{tail(service.log)}",
        hint=f"the whole story is in {service.log}",
    )


def _indented(text: str, *, by: str = "    ") -> str:
    return "\n".join(by + line for line in text.splitlines())
