"""What this machine measured about itself: once for its hardware and libraries, by a short process, kept on disk."""

import os
import subprocess
import sys
import time
from pathlib import Path

import structlog
from pydantic import ValidationError

from tunesmith.tuning.hardware import HardwareProfile, MachineConstants
from tunesmith.tuning.values.base import Value
from tunesmith.worker.run_directory import write_atomically
from tunesmith.worker.trainer_process.launcher import trainer_environment
from tunesmith.worker.work_directory import WorkDirectory

log = structlog.get_logger(__name__)

PATIENCE_SECONDS = 60.0  # a start must not wait longer for numbers that it can do without
FAILURE_STANDS_SECONDS = 3600.0  # a machine where measuring fails is not asked again at every start
_ASSUMED = "worker.constants_assumed"
_MEASURED_WITH = ("torch", "transformers", "bitsandbytes")


class StoredConstants(Value):
    """The file on disk. `constants` is None when measuring failed; `made_for` says when it no longer holds."""

    made_for: dict[str, str]
    constants: MachineConstants | None
    measured_at: float  # seconds since the epoch


def stored_constants(work: WorkDirectory, hardware: HardwareProfile) -> MachineConstants | None:
    """What an earlier start measured for this very hardware and these libraries."""
    stored = _read(work.constants)
    return stored.constants if stored and stored.made_for == _identity(hardware) else None


def measure_once(
    work: WorkDirectory,
    hardware: HardwareProfile,
    *,
    command: list[str] | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> MachineConstants | None:
    """The constants of one slot, measured unless they are stored. None when they cannot be had: the worker runs on."""
    stored, identity = _read(work.constants), _identity(hardware)
    if stored is not None and stored.made_for == identity:
        failed_lately = time.time() - stored.measured_at < FAILURE_STANDS_SECONDS
        if stored.constants is not None or failed_lately:
            return stored.constants
    began = time.monotonic()
    found = _measure(
        work,
        hardware,
        command or [sys.executable, "-P", "-m", "tunesmith.worker.train.measure"],
        patience_seconds,
    )
    seconds = round(time.monotonic() - began, 1)
    if found is not None:
        log.info("worker.constants_measured", seconds=seconds, **found.model_dump(exclude_none=True))
    stored = StoredConstants(made_for=identity, constants=found, measured_at=time.time())
    write_atomically(work.constants, stored.model_dump_json(indent=2))
    return found


def _measure(
    work: WorkDirectory, hardware: HardwareProfile, command: list[str], patience_seconds: float
) -> MachineConstants | None:
    out = work.constants.with_name("constants.new.json")
    out.unlink(missing_ok=True)
    devices = tuple(gpu.uuid for gpu in hardware.gpus[:1])
    environment = trainer_environment(
        os.environ, run_dir=work.runs / "constants", cores=hardware.cpu.cores, devices=devices
    )
    try:
        ended = subprocess.run(
            [*command, str(out), *devices],
            env=environment,
            cwd=work.root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=patience_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        log.warning(_ASSUMED, reason=f"measuring took longer than {patience_seconds:g} s")
    except OSError as error:
        log.warning(_ASSUMED, reason=f"{command[0]} cannot be started: {error.strerror}")
    else:
        return _read_new(out, said=ended.stderr)
    return None


def _read_new(out: Path, *, said: bytes) -> MachineConstants | None:
    try:
        return MachineConstants.model_validate_json(out.read_bytes())
    except FileNotFoundError:
        log.warning(_ASSUMED, reason=_last_line(said))
    except ValidationError:
        log.warning(_ASSUMED, reason="what was measured cannot be true")
    finally:
        out.unlink(missing_ok=True)
    return None


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "nothing was measured"


def _identity(hardware: HardwareProfile) -> dict[str, str]:
    """Everything whose change makes the numbers old. Free memory is not among it."""
    libraries = {name: hardware.installed.get(name, "") for name in _MEASURED_WITH}
    return libraries | {
        "gpus": " ".join(gpu.uuid or gpu.name for gpu in hardware.gpus),
        "driver": hardware.driver or "",
        "cpu": hardware.cpu.model,
        "cores": str(hardware.cpu.cores),
        "python": sys.version.split()[0],
    }


def _read(path: Path) -> StoredConstants | None:
    try:
        return StoredConstants.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
