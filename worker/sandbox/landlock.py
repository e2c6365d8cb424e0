"""A sandbox of Landlock rules, for containers that allow no namespaces: the kernel refuses what is not shown.

It is lower than one of namespaces: names of hidden files can still be tried, sockets in the file system are open (and
datagrams, where `seccomp` cannot refuse them), and processes stay visible, though not their environment. https://docs.kernel.org/userspace-api/landlock.html
"""

import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from tunesmith.worker.sandbox import kernel
from tunesmith.worker.sandbox.definition import Sandbox, is_below, real_paths
from tunesmith.worker.sandbox.system import devices, system_paths

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_FOLDER, _TRUNCATE, _DEVICE_CONTROL = (
    1,
    1 << 1,
    1 << 2,
    1 << 3,
    1 << 14,
    1 << 15,
)
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _DEVICE_CONTROL
_READ = _EXECUTE | _READ_FILE | _READ_FOLDER
_USE_DEVICE = _READ_FILE | _READ_FOLDER | _WRITE_FILE | _DEVICE_CONTROL
_ALL_TCP, _ABSTRACT_SOCKETS_AND_SIGNALS = 3, 3
_RIGHTS_BY_VERSION = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # how many rights over files there are; no more since


def version() -> int:
    """Of this kernel's Landlock.

    Raises:
        OSError: it has none, or it is switched off.
    """
    return kernel.system_call(_CREATE, None, ctypes.c_size_t(0), _VERSION_FLAG)


def shut(sandbox: Sandbox) -> None:
    """Refuse this process and all that it starts whatever the sandbox does not show.

    Raises:
        OSError: this kernel cannot.
    """
    known = version()
    rights = (1 << _RIGHTS_BY_VERSION.get(known, 16)) - 1
    tcp = _ALL_TCP if known >= 4 and not sandbox.talks else 0
    scoped = _ABSTRACT_SOCKETS_AND_SIGNALS if known >= 6 else 0
    rules = struct.pack("QQQ", rights, tcp, scoped)
    ruleset = kernel.system_call(_CREATE, rules, ctypes.c_size_t(len(rules)), 0)
    try:
        for path in _without((*system_paths(), *sandbox.readable, "/proc"), hidden=real_paths(sandbox.hidden)):
            _allow(ruleset, path, _READ & rights)
        for path in (*real_paths(sandbox.readable), "/etc/hosts"):
            _allow(ruleset, path, _READ & rights)
        for path in devices():
            _allow(ruleset, path, _USE_DEVICE & rights)
        for path in (*sandbox.writable, "/dev/shm"):  # noqa: S108 - where processes of a run share memory
            _allow(ruleset, path, rights & ~_DEVICE_CONTROL)
        kernel.system_call(_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


def _without(paths: tuple[str, ...], *, hidden: list[str]) -> Iterator[str]:
    """Rules only allow, so a folder that holds a hidden one is given child by child."""
    for path in real_paths(paths):
        if path in hidden or any(is_below(path, folder) for folder in hidden):
            continue
        if any(is_below(folder, path) for folder in hidden):
            yield from _without(tuple(map(str, Path(path).iterdir())), hidden=hidden)
        else:
            yield path


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        allowed = rights if Path(path).is_dir() else rights & _FILE_RIGHTS
        kernel.system_call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", allowed, place), 0)
    finally:
        os.close(place)
