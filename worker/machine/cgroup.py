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
    folders = _folders(mount, proc)
    if (mount / "cgroup.controllers").exists():
        return CgroupLimits(
            cores=min((quota for folder in folders if (quota := _cores_v2(folder))), default=None),
            memory_bytes=min((limit for folder in folders if (limit := _number(folder / "memory.max"))), default=None),
            memory_used_bytes=_used(folders, "memory.current", "inactive_file"),
        )
    memory = _number(mount / "memory" / "memory.limit_in_bytes")
    return CgroupLimits(
        cores=_cores_v1(mount / "cpu"),
        memory_bytes=memory if memory and memory < _UNLIMITED_V1 else None,
        memory_used_bytes=_used([mount / "memory"], "memory.usage_in_bytes", "total_inactive_file"),
    )


def out_of_memory_kills(*, mount: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> int:
    """How many processes of this group, or of one around it, the kernel has killed for memory so far."""
    return max((_field(folder / "memory.events", "oom_kill") or 0 for folder in _folders(mount, proc)), default=0)


def _folders(mount: Path, proc: Path) -> list[Path]:
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return [mount]
    own = next((line.split("::", 1)[1].strip("/") for line in lines if line.startswith("0::")), "")
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
