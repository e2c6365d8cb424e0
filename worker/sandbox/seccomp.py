"""System calls that no training needs, refused by the kernel: an attacker's way to faults in it, or to other processes.

A list of what is refused, because libraries of a million lines need more calls than could be listed. The filter is for
the process that asks for it and all that it starts. https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

import ctypes
import errno
import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tunesmith.worker.sandbox import kernel

_PR_SET_SECCOMP, _FILTER = 22, 2
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24  # where in the kernel's description of a call they lie
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000  # the second with the error number below it
_X32 = 0x40000000  # from here on: the calls once more, in another form
_NEW_NAMESPACES = kernel.NEW_NAMESPACES | 0x02000000 | 0x04000000  # and of control groups and host names
_CLONE3 = 435  # hides its flags from a filter: C libraries fall back to clone
_SOCKET_KIND, _DATAGRAM = 0xF, 2
_UNIX, _INTERNET, _INTERNET_6, _NETLINK = 1, 2, 10, 16  # families of sockets; every other one is code of the kernel
_SAME_EVERYWHERE = (425, 426, 427, 428, 429, 430, 431, 432, 433, 442, 443)  # io_uring, new ways to mount, quotas


@dataclass(frozen=True)
class _Numbers:
    """Of one architecture."""

    architecture: int
    clone: int
    socket: int
    refused: tuple[int, ...]


_NUMBERS = {
    "x86_64": _Numbers(
        architecture=0xC000003E,
        clone=56,
        socket=41,
        refused=(
            101, 310, 311, 312, 298, 321, 323,  # ptrace, process_vm_readv and _writev, kcmp, perf, bpf, userfaultfd
            272, 308, 165, 166, 155, 161,  # unshare, setns, mount, umount2, pivot_root, chroot
            246, 320, 175, 313, 176, 169, 167, 168,  # kexec, kernel modules, reboot, swap
            248, 249, 250, 303, 304, 300,  # keys of the kernel, files by handle, fanotify
            163, 179, 103, 172, 173, 154, 164, 227, 305, 170, 171, 153,  # accounting, syslog, ports, clocks, names
        ),
    ),
    "aarch64": _Numbers(
        architecture=0xC00000B7,
        clone=220,
        socket=198,
        refused=(
            117, 270, 271, 272, 241, 280, 282,
            97, 268, 40, 39, 41, 51,
            104, 294, 105, 273, 106, 142, 224, 225,
            217, 218, 219, 264, 265, 262,
            89, 60, 116, 170, 112, 266, 161, 162, 58,
        ),
    ),
}  # fmt: skip


def is_possible() -> bool:
    """Whether this kernel takes filters, and they are written for this architecture."""
    if platform.machine() not in _NUMBERS:
        return False
    try:
        kernel.prctl(_PR_SET_SECCOMP, _FILTER)  # without a program: EFAULT where one would be looked at
    except OSError as error:
        return error.errno == errno.EFAULT
    return True


def refuse_calls(*, datagrams: bool) -> None:
    """From now on; needs that privileges are given up. Without `datagrams` none can be sent over the internet.

    Raises:
        OSError: the kernel takes no filter.
    """
    steps = b"".join(_program(_NUMBERS[platform.machine()], datagrams=datagrams))
    code = ctypes.create_string_buffer(steps, len(steps))
    program = struct.pack("HxxxxxxP", len(steps) // 8, ctypes.addressof(code))
    kernel.prctl(_PR_SET_SECCOMP, _FILTER, program)


def _program(numbers: _Numbers, *, datagrams: bool) -> Iterator[bytes]:
    yield _step(_LOAD, _ARCHITECTURE)
    yield from _unless(_EQUAL, numbers.architecture, errno.EPERM)
    yield _step(_LOAD, _NUMBER)
    yield from _when(_AT_LEAST, _X32, errno.EPERM)
    yield from _when(_EQUAL, _CLONE3, errno.ENOSYS)
    for number in (*numbers.refused, *_SAME_EVERYWHERE):
        yield from _when(_EQUAL, number, errno.EPERM)
    yield from _only_for(numbers.clone, [_step(_LOAD, _FIRST), *_when(_ANY_BIT, _NEW_NAMESPACES, errno.EPERM)])
    yield from _only_for(numbers.socket, [*_sockets(datagrams=datagrams)])
    yield _step(_RETURN, _ALLOW)


def _sockets(*, datagrams: bool) -> Iterator[bytes]:
    yield _step(_LOAD, _FIRST)
    allowed = (_UNIX, _INTERNET, _INTERNET_6, _NETLINK)
    for tried, family in enumerate(allowed):
        yield _step(_EQUAL, family, then=len(allowed) - tried)
    yield _step(_RETURN, _REFUSE | errno.EAFNOSUPPORT)
    if not datagrams:
        internet = [
            _step(_LOAD, _SECOND),
            _step(_AND, _SOCKET_KIND),
            *_when(_EQUAL, _DATAGRAM, errno.EPERM),
            _step(_RETURN, _ALLOW),
        ]
        yield _step(_EQUAL, _INTERNET, then=1)
        yield _step(_EQUAL, _INTERNET_6, otherwise=len(internet))
        yield from internet


def _when(test: int, value: int, error: int) -> list[bytes]:
    return [_step(test, value, otherwise=1), _step(_RETURN, _REFUSE | error)]


def _unless(test: int, value: int, error: int) -> list[bytes]:
    return [_step(test, value, then=1), _step(_RETURN, _REFUSE | error)]


def _only_for(number: int, steps: list[bytes]) -> list[bytes]:
    """These steps change what is looked at, so the call is decided by them."""
    decided = [*steps, _step(_RETURN, _ALLOW)]
    return [_step(_EQUAL, number, otherwise=len(decided)), *decided]


def _step(code: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    """One instruction; `then` and `otherwise` are how many to skip."""
    return struct.pack("HBBI", code, then, otherwise, value)
