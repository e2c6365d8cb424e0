"""What a figure was measured on, as its reports name it."""

import os
import platform
import time
from importlib import metadata
from pathlib import Path


def processor() -> str:
    """The processor's name as the kernel tells it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def setting(*packages: str) -> str:
    """Date, machine and versions, for the head of a page."""
    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    machine = f"{processor()}, {os.cpu_count()} cores, {gibibytes:.0f} GiB"
    versions = [f"Python {platform.python_version()}", *(f"{name} {metadata.version(name)}" for name in packages)]
    return f"{time.strftime('%Y-%m-%d')}, {machine}; {', '.join(versions)}"
