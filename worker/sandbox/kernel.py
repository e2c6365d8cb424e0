"""The calls of the Linux kernel that Python has no name for. Each raises OSError."""

import ctypes
import os
import struct

NEW_NAMESPACES = 0x00020000 | 0x10000000 | 0x20000000 | 0x40000000 | 0x08000000  # mount, user, pid, network, ipc
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
READ_ONLY, NO_SUID, NO_DEVICES = 1, 2, 4  # attributes of a mount
_MOUNT_SETATTR, _AT_RECURSIVE = 442, 0x8000
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 24, 36, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_HIGHEST_CAPABILITY = 63  # the kernel says EINVAL from the first that it does not know

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Give this process namespaces of its own; of process numbers, to its next child."""
    _check(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, *, kind: str = "", flags: int = 0, options: str = "") -> None:
    """`mount(2)`."""
    words = [word.encode() if word else None for word in (source, target, kind)]
    _check(_libc.mount(*words, ctypes.c_ulong(flags), options.encode() or None), f"mount on {target}")


def change_mount(path: str, attributes: int, *, recursive: bool) -> None:
    """Add attributes to a mount, and to those below it. Linux 5.12."""
    wanted = struct.pack("QQQQ", attributes, 0, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    done = _libc.syscall(_MOUNT_SETATTR, -100, path.encode(), flags, wanted, ctypes.c_size_t(len(wanted)))
    _check(done, f"change the mount on {path}")


def make_root(path: str) -> None:
    """Let `path`, which is a mount, be the root, and let go of the old one."""
    os.chdir(path)
    _check(_libc.pivot_root(b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _MNT_DETACH), "let go of the old root")
    os.chdir("/")


def die_with_parent(number: int) -> None:
    """Have the kernel send this process a signal when its parent ends."""
    prctl(_PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Descendants whose parents end become children of this process."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def give_up_privileges() -> None:
    """No capability now, and none by whatever this process may run: not as root, not by a file's bits."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(_HIGHEST_CAPABILITY):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
            break  # the last one, or an ordinary user, who has none
    header, none = struct.pack("Ii", _CAPABILITY_VERSION_3, 0), bytes(24)
    _check(_libc.capset(header, none), "give up capabilities")


def prctl(option: int, value: int, third: bytes | None = None) -> None:
    """`prctl(2)`."""
    _check(_libc.prctl(option, value, third, None, None), f"prctl {option}")


def system_call(number: int, *arguments: object) -> int:
    """Any call, by its number; those above 400 are the same on every architecture."""
    answer: int = _libc.syscall(number, *arguments)
    return _check(answer, f"system call {number}")


def _check(answer: int, what: str) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return answer
