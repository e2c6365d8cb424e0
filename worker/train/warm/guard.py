"""Whether forking this process now would give a trainer that is as good as a new one. Anything doubtful is a no."""

import contextlib
import os
import sys
from collections.abc import Collection
from pathlib import Path

import torch

# What a trainer hides, or uses at its own risk: the first asks for the GPU while it is imported, both start threads.
NEVER_IMPORTED = ("bitsandbytes", "deepspeed", "peft")
_CUDA_IN_USE = "/dev/nvidia-uvm"  # open in a process exactly when it has initialised CUDA
Stamp = tuple[int, int]  # modification time in nanoseconds, size


class Guard:
    """Made when everything has been imported; remembers the files that it was imported from."""

    def __init__(self, *, descriptors: Collection[int]) -> None:
        """`descriptors` are those that this process may have open."""
        self._descriptors = frozenset(descriptors)
        self._files = loaded_files()

    def obstacle(self, *, received: Collection[int] = ()) -> str | None:
        """Why this process must not be forked; None when it may. `received` are open for the trainer to come."""
        return (
            _threads()
            or _imports()
            or _cuda()
            or _shared_memory()
            or self._strange_descriptor(received)
            or self._changed_file()
        )

    def _strange_descriptor(self, received: Collection[int]) -> str | None:
        known = self._descriptors | frozenset(received)
        for descriptor, target in open_descriptors().items():
            if descriptor not in known:
                return f"it has {target} open"
        return None

    def _changed_file(self) -> str | None:
        """An upgrade under a running worker: a trainer that starts now must be of one version."""
        changed = next((name for name, stamp in self._files.items() if _stamp(name) != stamp), None)
        return f"{changed} has changed since it was imported" if changed else None


def loaded_files() -> dict[str, Stamp]:
    """The files of all imported modules, as they are now."""
    names = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    stamps = {name: _stamp(name) for name in names if name}
    return {name: stamp for name, stamp in stamps.items() if stamp is not None}


def open_descriptors() -> dict[int, str]:
    """What this process has open, by number."""
    found = {}
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # the listing's own, which is closed by now
            found[int(entry.name)] = str(entry.readlink())
    return found


def _threads() -> str | None:
    """A lock that another thread holds stays locked for ever in a fork."""
    count = sum(1 for _ in Path("/proc/self/task").iterdir())
    return f"it has {count} threads" if count != 1 else None


def _imports() -> str | None:
    found = next((name for name in NEVER_IMPORTED if name in sys.modules), None)
    return f"{found} has been imported" if found else None


def _cuda() -> str | None:
    """CUDA cannot be used after a fork once the parent has touched it."""
    in_use = torch.cuda.is_initialized() or _CUDA_IN_USE in open_descriptors().values()
    return "CUDA is in use" if in_use else None


def _shared_memory() -> str | None:
    """Memory that a trainer could write for its parent and so for all later trainers to see."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        fields = line.split(maxsplit=5)
        if "w" in fields[1] and "s" in fields[1]:
            return f"it shares writable memory ({fields[5] if len(fields) > 5 else 'without a name'})"
    return None


def _stamp(name: str) -> Stamp | None:
    try:
        status = os.stat(name)  # noqa: PTH116 - thousands of them before a fork
    except OSError:  # a module of a name that is no file
        return None
    return status.st_mtime_ns, status.st_size
