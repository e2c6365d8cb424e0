"""What every trainer needs of the machine itself, whatever it trains: programs, libraries, devices."""

from pathlib import Path

# /etc without what is about people and services: how to find libraries, names of users, the time.
_SYSTEM = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store", "/gnu/store",
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf",
    "/etc/localtime", "/etc/alternatives", "/etc/OpenCL", "/etc/vulkan", "/etc/mime.types",
    "/sys/bus", "/sys/class", "/sys/dev", "/sys/devices", "/sys/module", "/sys/fs/cgroup",
)  # fmt: skip
_DEVICES = ("null", "zero", "full", "random", "urandom", "kfd", "dri", "infiniband")


def system_paths() -> tuple[str, ...]:
    """Files and folders that anybody may read."""
    return tuple(path for path in _SYSTEM if Path(path).exists())


def devices() -> tuple[str, ...]:
    """Device files: the harmless ones and the accelerators. Which of these a run uses, CUDA_VISIBLE_DEVICES says."""
    folder = Path("/dev")
    named = [folder / name for name in _DEVICES]
    return tuple(str(path) for path in (*named, *sorted(folder.glob("nvidia*"))) if path.exists())
