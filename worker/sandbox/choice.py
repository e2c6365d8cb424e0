"""Which sandbox this machine allows: tried with a real process, for kernels and containers differ too much to ask."""

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tunesmith.worker.sandbox import seccomp
from tunesmith.worker.sandbox.definition import KINDS, Kind, Sandbox

SandboxSetting = Literal["auto", "require", "off"]
_TRIAL_SECONDS = 30.0
_FOLDERS_IN_ENVIRONMENT = ("LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "VIRTUAL_ENV")
_MIB = 1024**2


@dataclass(frozen=True, kw_only=True)
class Found:
    """`kind` is None where nothing works; `missed` says why the better kinds do not, by kind.

    `filters_calls`: system calls that no training needs are refused too.
    """

    kind: Kind | None
    missed: dict[str, str]
    filters_calls: bool = False

    @property
    def text(self) -> str:
        """The kind in words."""
        return f"{self.kind}, {'with' if self.filters_calls else 'without'} a filter of system calls"


@functools.cache
def best() -> Found:
    """The best kind that a Python can be started behind; remembered for the life of this process."""
    missed: dict[str, str] = {}
    for kind in KINDS:
        reason = _trial(kind)
        if reason is None:
            return Found(kind=kind, missed=missed, filters_calls=seccomp.is_possible())
        missed[kind] = reason
    return Found(kind=None, missed=missed)


def python_paths() -> tuple[str, ...]:
    """Where this Python and its packages lie."""
    program = str(Path(sys.executable).resolve().parents[1])
    folders = (sys.prefix, sys.base_prefix, sys.exec_prefix, program, *sys.path)
    return tuple(dict.fromkeys(folder for folder in folders if folder not in ("", "/") and Path(folder).exists()))


def libraries(environment: Mapping[str, str]) -> tuple[str, ...]:
    """`python_paths`, and the folders of libraries that an environment names."""
    named = (folder for name in _FOLDERS_IN_ENVIRONMENT for folder in environment.get(name, "").split(os.pathsep))
    return (*python_paths(), *(folder for folder in named if folder not in ("", "/")))


def sandboxed(sandbox: Sandbox, command: list[str]) -> list[str]:
    """The command line that runs another in a sandbox."""
    return [sys.executable, "-P", "-m", "tunesmith.worker.sandbox", sandbox.dumped(), *command]


def _trial(kind: Kind) -> str | None:
    """Why a process cannot be started in this kind of sandbox; None when it can."""
    with tempfile.TemporaryDirectory(prefix="tunesmith-sandbox-") as folder:
        sandbox = Sandbox(
            kind=kind,
            readable=python_paths(),
            writable=(folder,),
            home=folder,
            scratch=folder,
            largest_file_bytes=_MIB,
        )
        command = sandboxed(sandbox, [sys.executable, "-P", "-c", "open('tried', 'w').close()"])
        try:
            ended = subprocess.run(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_TRIAL_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if ended.returncode == 0 and Path(folder, "tried").exists():
            return None
    words = ended.stderr.strip().splitlines()
    return words[-1][:300] if words else f"it ended with {ended.returncode}"
