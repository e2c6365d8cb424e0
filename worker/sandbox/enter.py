"""Two small processes around a trainer, which let nothing of it out and nothing of it live on.

    outer    the worker's child; waits, and ends as the trainer ended, by the same exit code or signal
    inner    the first process in the sandbox: when it ends, the kernel ends all that is left there
    trainer  what `enter` returns in

Without namespaces the outer process adopts whatever the trainer leaves, and ends it.
"""

import contextlib
import os
import resource
import select
import signal
from pathlib import Path
from typing import NoReturn

from tunesmith.worker.sandbox import kernel, landlock, namespaces, seccomp
from tunesmith.worker.sandbox.definition import Sandbox

EXIT_CANNOT_SANDBOX = 71  # EX_OSERR
_LIFELINE = 0
_STATUS_BYTES = 4
_REAP_MILLISECONDS = 5_000
_DEAF_TO = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)  # the group's signals are the trainer's


def enter(sandbox: Sandbox) -> None:
    """go into the sandbox: returns in a new process there, while this one waits for its end.

    Call it in a process of one thread, whose standard input ends when the worker does.

    Raises:
        OSError: in this process, when it cannot have namespaces.
    """
    if sandbox.kind == "namespaces":
        namespaces.separate()
    else:
        kernel.adopt_orphans()
    heard, said = os.pipe()
    inner = os.fork()
    if inner:
        os.close(said)
        _wait_outside(inner, heard)
    os.close(heard)
    kernel.die_with_parent(signal.SIGKILL)
    if _is_broken(said):
        os._exit(EXIT_CANNOT_SANDBOX)  # the outer process ended before the kernel had been told
    try:
        _shut(sandbox)
    except BaseException as error:
        os.write(2, f"The trainer could not be sandboxed: {error}\n".encode())
        os._exit(EXIT_CANNOT_SANDBOX)
    trainer = os.fork()
    if trainer:
        _wait_inside(trainer, said)
    os.close(said)
    _be_the_trainer(sandbox)


def _shut(sandbox: Sandbox) -> None:
    """What holds for every process in the sandbox; Landlock's rules would keep the inner one from its work."""
    here = Path.cwd()
    for folder in (sandbox.home, sandbox.scratch):
        Path(folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    if sandbox.kind == "namespaces":
        namespaces.shut(sandbox)
        os.chdir(here)
    _limit(sandbox)
    kernel.give_up_privileges()


def _limit(sandbox: Sandbox) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for kind, most in (
        (resource.RLIMIT_FSIZE, sandbox.largest_file_bytes),
        (resource.RLIMIT_NPROC, sandbox.most_processes),
    ):
        hard = resource.getrlimit(kind)[1]
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (allowed, allowed))


def _be_the_trainer(sandbox: Sandbox) -> None:
    if sandbox.kind == "landlock":
        kernel.die_with_parent(signal.SIGKILL)
        landlock.shut(sandbox)
    if seccomp.is_possible():
        seccomp.refuse_calls(datagrams=sandbox.talks or sandbox.kind == "namespaces")
    os.environ.update(
        HOME=sandbox.home, XDG_CACHE_HOME=f"{sandbox.home}/.cache", TRITON_CACHE_DIR=f"{sandbox.home}/.triton"
    )
    os.environ["TMPDIR"] = sandbox.scratch if sandbox.kind == "landlock" else "/tmp"  # noqa: S108 - its own


def _wait_outside(inner: int, heard: int) -> NoReturn:
    """End as the trainer ended."""
    _ignore_signals()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    said = os.read(heard, _STATUS_BYTES)
    _, status = os.waitpid(inner, 0)
    if len(said) == _STATUS_BYTES:
        status = int.from_bytes(said, "little")
    _end_orphans()
    _end_as(os.waitstatus_to_exitcode(status))


def _end_orphans() -> None:
    """Children of children become our own as their parents die, so in the end none is left."""
    with contextlib.suppress(ChildProcessError):  # no child is left
        while True:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                for child in _children():
                    os.kill(child, signal.SIGKILL)
                os.waitpid(-1, 0)


def _children() -> list[int]:
    found = []
    for entry in os.listdir("/proc"):  # noqa: PTH208 - names alone
        if entry.isdigit():
            with contextlib.suppress(OSError):
                fields = Path("/proc", entry, "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
                if int(fields.split()[1]) == os.getpid():
                    found.append(int(entry))
    return found


def _wait_inside(trainer: int, said: int) -> NoReturn:
    """Collect whatever ends, until the trainer does or the worker is gone; then end, and all in the sandbox too."""
    _ignore_signals()
    watched = select.poll()
    watched.register(_LIFELINE, 0)  # its end alone
    watched.register(os.pidfd_open(trainer), select.POLLIN)
    status: int | None = None
    while status is None:
        ready = dict(watched.poll(_REAP_MILLISECONDS))
        status = _reap(trainer)
        if _LIFELINE in ready and status is None:
            os._exit(EXIT_CANNOT_SANDBOX)
    os.write(said, status.to_bytes(_STATUS_BYTES, "little"))
    os._exit(0)


def _reap(trainer: int) -> int | None:
    """Collect every child that has ended; the trainer's status if it is among them."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == trainer:
                status = ended[1]
    return status


def _ignore_signals() -> None:
    for number in _DEAF_TO:
        signal.signal(number, signal.SIG_IGN)


def _is_broken(pipe: int) -> bool:
    look = select.poll()
    look.register(pipe, 0)
    return bool(look.poll(0))


def _end_as(exit_code: int) -> NoReturn:
    if exit_code >= 0:
        os._exit(exit_code)
    if -exit_code not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(-exit_code, signal.SIG_DFL)
    os.kill(os.getpid(), -exit_code)
    os._exit(128 - exit_code)
