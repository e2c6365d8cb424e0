"""A sandbox of namespaces: a root of its own made of what is shown, its own processes, network and shared memory."""

import contextlib
import fcntl
import os
import socket
import struct
from pathlib import Path

from tunesmith.worker.sandbox import kernel
from tunesmith.worker.sandbox.definition import Sandbox, is_below, real_paths
from tunesmith.worker.sandbox.system import devices, system_paths

_ROOT = "/proc"  # the new root is put together here: nothing that is shown lies below it
# Root's own user number may write to these, with or without capabilities, and so change the host.
_HOST_SETTINGS = ("sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "scsi")
_IFF_UP, _SIOCSIFFLAGS = 1, 0x8914


def separate() -> None:
    """Give this process its namespaces; its next child is the first process of a new process namespace.

    Raises:
        OSError: the kernel, or whoever made this container, does not allow it.
    """
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(kernel.NEW_NAMESPACES)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        Path("/proc/self", name).write_text(text, encoding="utf-8")


def shut(sandbox: Sandbox) -> None:
    """In that child: replace the root by what the sandbox shows. No way leads back.

    Raises:
        OSError: something could not be mounted.
    """
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", _ROOT, kind="tmpfs", flags=kernel.MS_NOSUID | kernel.MS_NODEV, options="mode=755,size=16m")
    _empty(_ROOT + "/tmp", mode="1777")  # noqa: S108 - its own
    empty = _show(sandbox)
    _make_devices()
    _make_proc()
    _write_hosts()
    for path in (_ROOT, _ROOT + "/dev", *empty):
        kernel.change_mount(path, kernel.READ_ONLY, recursive=False)
    kernel.make_root(_ROOT)
    _raise_loopback()


def _show(sandbox: Sandbox) -> list[str]:
    """Bind what is shown, outer folders first, with an empty folder over what is hidden in between."""
    readable = real_paths((*system_paths(), *sandbox.readable))
    writable = real_paths(sandbox.writable)
    hidden = [path for path in real_paths(sandbox.hidden) if any(is_below(path, shown) for shown in readable)]
    inside_hidden = real_paths(tuple(path for path in sandbox.readable if _is_in(path, hidden)))
    empty = []
    for path in sorted({*readable, *writable, *hidden, *inside_hidden}, key=lambda path: path.count("/")):
        if path in hidden:
            empty.append(_ROOT + path)
            _empty(_ROOT + path)
        else:
            _bind(path, writable=path in writable)
    for path in (*system_paths(), *sandbox.readable, *sandbox.writable):
        _link(path)
    return empty


def _is_in(path: str, folders: list[str]) -> bool:
    return any(is_below(str(Path(path).resolve()), folder) for folder in folders)


def _bind(path: str, *, writable: bool = False, device: bool = False) -> None:
    target = _ROOT + path
    _make_place(target, for_folder=Path(path).is_dir())
    kernel.mount(path, target, flags=kernel.MS_BIND | kernel.MS_REC)
    attributes = kernel.NO_SUID | (0 if device else kernel.NO_DEVICES) | (0 if writable or device else kernel.READ_ONLY)
    kernel.change_mount(target, attributes, recursive=True)


def _link(path: str) -> None:
    """A path that leads through links, such as /bin, leads to the same place inside."""
    real, place = Path(path).resolve(), Path(_ROOT + path)
    if str(real) != path and not os.path.lexists(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(real)


def _empty(target: str, *, mode: str = "755") -> None:
    _make_place(target, for_folder=True)
    kernel.mount("tmpfs", target, kind="tmpfs", flags=kernel.MS_NOSUID | kernel.MS_NODEV, options=f"mode={mode}")


def _make_place(target: str, *, for_folder: bool) -> None:
    place = Path(target)
    if for_folder:
        place.mkdir(parents=True, exist_ok=True)
    elif not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()


def _make_devices() -> None:
    _empty(_ROOT + "/dev")
    for path in devices():
        _bind(path, device=True)
    _empty(_ROOT + "/dev/shm", mode="1777")  # noqa: S108 - its own
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        Path(_ROOT, "dev", name).symlink_to(f"/proc/self/fd{target}")


def _make_proc() -> None:
    place = Path(_ROOT, "proc")
    place.mkdir()
    kernel.mount("proc", str(place), kind="proc", flags=kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    with contextlib.suppress(OSError):  # no namespace below this one, in which it would be root again
        (place / "sys/user/max_user_namespaces").write_text("0", encoding="utf-8")
    for name in _HOST_SETTINGS:
        setting = str(place / name)
        if Path(setting).exists():
            kernel.mount(setting, setting, flags=kernel.MS_BIND | kernel.MS_REC)
            kernel.change_mount(setting, kernel.READ_ONLY, recursive=True)


def _write_hosts() -> None:
    """Processes of one run find each other by this host's name, which a name server cannot tell them in here."""
    folder = Path(_ROOT, "etc")
    folder.mkdir(exist_ok=True)
    names = f"localhost {socket.gethostname()}"
    (folder / "hosts").write_text(f"127.0.0.1 {names}\n::1 {names}\n", encoding="utf-8")


def _raise_loopback() -> None:
    request = struct.pack("16sH14x", b"lo", _IFF_UP)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)
