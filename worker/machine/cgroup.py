"""The limits that a container or a service manager puts on this process: processors and memory."""

from dataclasses import dataclass
from pathlib import Path

_UNLIMITED_V1 = 1 << 60  # version 1 says "no limit" with a huge number


@dataclass(frozen=True)
class CgroupLimits:
    """None means: no limit is set."""

    cores: float | None = None
    memory_bytes: int | None = None
    memory_used_bytes: int | None = None  # without page cache that the kernel gives back under pressure


def read_limits(*, mount: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> CgroupLimits:
    """The tightest limits on the way from this process's group up to the root, for cgroup version 2 and 1."""
    if _is_version_2(mount):
        folders = _folders(mount, proc)
        return CgroupLimits(
            cores=min((quota for folder in folders if (quota := _cores_v2(folder))), default=None),
            memory_bytes=min((limit for folder in folders if (limit := _number(folder / "memory.max"))), default=None),
            memory_used_bytes=_used(folders, "memory.current", "inactive_file"),
        )
    folders = _folders(mount / "memory", proc, controller="memory")
    limits = (_number(folder / "memory.limit_in_bytes") for folder in folders)
    quotas = (_cores_v1(folder) for folder in _folders(mount / "cpu", proc, controller="cpu"))
    return CgroupLimits(
        cores=min((quota for quota in quotas if quota), default=None),
        memory_bytes=min((limit for limit in limits if limit and limit < _UNLIMITED_V1), default=None),
        memory_used_bytes=_used(folders, "memory.usage_in_bytes", "total_inactive_file"),
    )


def out_of_memory_kills(*, mount: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> int:
    """How many processes of this group the kernel has killed for memory so far; of the host where no group counts.

    A group counts its own processes, whoever's limit was reached: https://docs.kernel.org/admin-guide/cgroup-v2.html
    (memory.events, oom_kill). Version 1 has the number in memory.oom_control, a host in /proc/vmstat.
    """
    if _is_version_2(mount):
        files = [folder / "memory.events" for folder in _folders(mount, proc)]
    else:
        files = [folder / "memory.oom_control" for folder in _folders(mount / "memory", proc, controller="memory")]
    counts = (_field(file, "oom_kill") for file in [*files, proc / "vmstat"])
    return next((count for count in counts if count is not None), 0)


def _is_version_2(mount: Path) -> bool:
    return (mount / "cgroup.controllers").exists()


def _folders(mount: Path, proc: Path, *, controller: str = "") -> list[Path]:
    """This process's group, then those around it up to `mount`. Version 2 names no controller.

    In a container of version 1 the path is the host's and `mount` the group itself: what is not there is not read.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return [mount]
    groups = (line.split(":", 2) for line in lines if line.count(":") >= 2)
    own = next((path.strip("/") for _, controllers, path in groups if controller in controllers.split(",")), "")
    folder = mount / own if own and ".." not in own else mount
    chain = [folder, *folder.parents]
    return [entry for entry in chain if entry == mount or mount in entry.parents]


def _cores_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _cores_v1(folder: Path) -> float | None:
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 else None


def _used(folders: list[Path], usage_file: str, cache_field: str) -> int | None:
    for folder in folders:
        usage = _number(folder / usage_file)
        if usage is not None:
            return max(0, usage - (_field(folder / "memory.stat", cache_field) or 0))
    return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text().strip())
    except (OSError, ValueError):
        return None


def _field(path: Path, name: str) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(value) for key, _, value in (line.partition(" ") for line in lines) if key == name), None)
