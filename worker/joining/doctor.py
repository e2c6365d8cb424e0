"""`tunesmith-worker doctor`: whether this machine can work: driver, libraries, disk, clock, address and key."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx2

from tunesmith.tuning.errors import TunesmithError
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.values.findings import Finding, Level
from tunesmith.tuning.values.units import GIB, gib
from tunesmith.worker.machine.probe import probe
from tunesmith.worker.sandbox.choice import best
from tunesmith.worker.transport.greeting import greet
from tunesmith.worker.transport.retry import Unavailable
from tunesmith.worker.transport.wire import service_client

_ENOUGH_DISK_BYTES = 20 * GIB
_CLOCKS_AGREE_SECONDS = 5.0
_LIBRARY_SECONDS = 120.0
_TIMEOUT = httpx2.Timeout(10.0, connect=5.0)
_LIBRARIES = """
import importlib, json, torch
found = {"torch": torch.__version__, "cuda": torch.version.cuda, "usable": torch.cuda.is_available()}
try:
    found["bitsandbytes"] = importlib.import_module("bitsandbytes").__version__
except Exception as error:
    found["bitsandbytes_error"] = f"{type(error).__name__}: {error}"[:200]
print(json.dumps(found))
"""


def examine(environment: Mapping[str, str], *, clock: Callable[[], float] = time.time) -> list[Finding]:
    """Every finding. The service comes first: it is looked at in a second, and most mistakes are there."""
    work_dir = Path(environment["TUNESMITH_WORK_DIR"])
    hardware = probe(disk=_existing(work_dir), cpu_memory_gib=None)
    return [
        *_service(environment.get("TUNESMITH_URL"), environment.get("TUNESMITH_WORKER_KEY"), clock=clock),
        _devices(hardware),
        *_libraries(_look_at_libraries(), has_gpu=bool(hardware.gpus)),
        _disk(work_dir),
        _sandbox(),
    ]


def worries(environment: Mapping[str, str]) -> list[Finding]:
    """What keeps the GPUs of this machine from training; nothing is looked at where there are none."""
    if not probe(disk=_existing(Path(environment["TUNESMITH_WORK_DIR"])), cpu_memory_gib=None).gpus:
        return []
    return [one for one in _libraries(_look_at_libraries(), has_gpu=True) if one.level is not Level.OK]


def text_of(findings: list[Finding]) -> str:
    """Lines for people."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<5} {finding.subject:<13} {finding.text}")
        if finding.next_step and finding.level is not Level.OK:
            lines.append(f"{'':<5} {'':<13} next: {finding.next_step}")
    return "\n".join(lines)


def exit_code(findings: list[Finding]) -> int:
    """1 when something keeps this machine from working, else 0."""
    return int(any(finding.level is Level.FAIL for finding in findings))


def _service(url: str | None, key: str | None, *, clock: Callable[[], float]) -> list[Finding]:
    if not url or not key:
        step = "ask an admin for the line of `tunesmith workers invite`, and paste it here"
        return [Finding(Level.FAIL, "service", "this machine has joined none", step)]
    with service_client(url, key, timeout=_TIMEOUT) as client:
        asked_at = clock()
        try:
            answer = greet(client)
        except Unavailable as error:
            return [
                Finding(Level.FAIL, "service", f"{url} does not answer: {error}", "check address, network, firewall")
            ]
        except TunesmithError as error:
            return [
                Finding(Level.FAIL, "service", f"{url}: {error.message}", error.hint or "ask an admin for a new line")
            ]
    return [
        Finding(Level.OK, "service", f"{url} takes this machine's key"),
        _versions(version("tunesmith"), answer.version),
        _clock(answer.at - (asked_at + clock()) / 2),
    ]


def _versions(ours: str, theirs: str) -> Finding:
    if ours == theirs:
        return Finding(Level.OK, "version", f"{ours} on both sides")
    step = "ask an admin for a new line: it installs the service's own package"
    return Finding(Level.WARN, "version", f"{ours} here, {theirs} at the service", step)


def _clock(ahead_seconds: float) -> Finding:
    """Leases go by the database's clock alone; logs and files of two machines are compared by people."""
    text = f"the service's is {abs(ahead_seconds):.1f} s {'ahead' if ahead_seconds > 0 else 'behind'}"
    if abs(ahead_seconds) <= _CLOCKS_AGREE_SECONDS:
        return Finding(Level.OK, "clock", text)
    return Finding(Level.WARN, "clock", text, "let both follow the network's time (chrony, systemd-timesyncd)")


def _devices(hardware: HardwareProfile) -> Finding:
    if not hardware.gpus:
        text = f"none: jobs train on the CPU ({hardware.cpu.cores} cores)"
        return Finding(Level.WARN, "gpus", text, "install the NVIDIA driver if there is a GPU; nvidia-smi shows it")
    names = "; ".join(f"{gpu.index} {gpu.name}, {gib(gpu.memory_free_bytes)} free" for gpu in hardware.gpus)
    return Finding(Level.OK, "gpus", f"{names}; driver {hardware.driver}")


def _look_at_libraries() -> dict[str, Any] | str:
    """What a Python of the trainers' says of its libraries, or why it says nothing."""
    command = [sys.executable, "-P", "-c", _LIBRARIES]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_LIBRARY_SECONDS, check=False)
        return dict(json.loads(ended.stdout.strip().splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return f"importing it took longer than {_LIBRARY_SECONDS:.0f} s"
    except (ValueError, IndexError):
        return (ended.stderr.strip().splitlines() or ["it said nothing"])[-1][:200]


def _libraries(found: dict[str, Any] | str, *, has_gpu: bool) -> list[Finding]:
    if isinstance(found, str):
        return [Finding(Level.FAIL, "torch", found, "install the worker extra again, with the line of an invitation")]
    return [_torch(found, has_gpu=has_gpu), _bitsandbytes(found, has_gpu=has_gpu)]


def _torch(found: dict[str, Any], *, has_gpu: bool) -> Finding:
    build = f"CUDA {found['cuda']}" if found["cuda"] else "a CPU build"
    text = f"{found['torch']}, {build}"
    if has_gpu and not found["cuda"]:
        step = f"pip install --force-reinstall --no-deps torch=={found['torch'].partition('+')[0]} from the usual index"
        return Finding(Level.FAIL, "torch", f"{text}, but this machine has a GPU", step)
    if has_gpu and not found["usable"]:
        step = "update the NVIDIA driver: it is older than this CUDA needs"
        return Finding(Level.FAIL, "torch", f"{text}, which cannot use the GPU", step)
    return Finding(Level.OK, "torch", text)


def _bitsandbytes(found: dict[str, Any], *, has_gpu: bool) -> Finding:
    if "bitsandbytes" in found:
        return Finding(Level.OK, "bitsandbytes", str(found["bitsandbytes"]))
    level = Level.FAIL if has_gpu else Level.WARN
    return Finding(level, "bitsandbytes", found["bitsandbytes_error"], "without it no QLoRA: install the worker extra")


def _disk(work_dir: Path) -> Finding:
    free = shutil.disk_usage(_existing(work_dir)).free
    text = f"{gib(free)} free for {work_dir}"
    if free < _ENOUGH_DISK_BYTES:
        return Finding(Level.WARN, "disk", text, "models and checkpoints need more: set TUNESMITH_WORK_DIR elsewhere")
    return Finding(Level.OK, "disk", text)


def _sandbox() -> Finding:
    found = best()
    if found.kind is not None:
        return Finding(Level.OK, "sandbox", f"trainers are sandboxed by {found.text}")
    why = "; ".join(f"no {kind}: {reason}" for kind, reason in found.missed.items())
    step = "allow user namespaces, or use a kernel with Landlock (5.13); until then train only what you trust"
    return Finding(Level.WARN, "sandbox", f"trainers are not sandboxed ({why})", step)


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())
