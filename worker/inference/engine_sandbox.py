"""What an engine is shown: its base, the adapters that are served, a folder of its own, and the libraries."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from tunesmith.tuning.codes import STACK_VARIABLE, ErrorCode
from tunesmith.tuning.errors import TunesmithError
from tunesmith.worker.inference.engine_kinds import OWN, EngineKind
from tunesmith.worker.sandbox.choice import SandboxSetting, best, libraries
from tunesmith.worker.sandbox.definition import Kind, Sandbox

log = structlog.get_logger(__name__)

_LARGEST_FILE_BYTES = 1024**3  # compiled kernels, at most


class NotSandboxed(TunesmithError):
    """The operator wants no engine without a sandbox, and this one cannot have one."""

    code = ErrorCode.NO_SANDBOX


@dataclass(frozen=True, kw_only=True)
class EngineSandbox:
    """Makes the sandbox of each engine of a gateway. No other part of `work`, or of the stack around it, is shown."""

    kind: Kind
    adapters: Path
    work: Path

    def around(self, base: Path, *, own: Path, environment: Mapping[str, str] = os.environ) -> Sandbox:
        """For an engine that loads `base` and may write to `own` alone."""
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(mode=0o700)
        stack = environment.get(STACK_VARIABLE)
        return Sandbox(
            kind=self.kind,
            readable=(str(base), str(self.adapters), *libraries(environment)),
            writable=(str(own),),
            hidden=tuple(path for path in (str(self.work), stack) if path),
            home=str(own / "home"),
            scratch=str(own / "scratch"),
            largest_file_bytes=_LARGEST_FILE_BYTES,
        )


def engine_sandbox(
    setting: SandboxSetting,
    engine: EngineKind,
    *,
    adapters: Path,
    work: Path,
    best_kind: Callable[[], Kind | None] = lambda: best().kind,
) -> EngineSandbox | None:
    """The best one that this machine allows; None where it is off or cannot be had.

    Raises:
        NotSandboxed: it cannot be had, and must be.
    """
    kind = None if setting == "off" or engine.name != OWN else best_kind()
    if kind is not None:
        log.info("inference.engines_sandboxed", kind=kind)
        return EngineSandbox(kind=kind, adapters=adapters, work=work)
    if setting == "require":
        raise NotSandboxed(
            "vLLM cannot be sandboxed." if engine.name != OWN else "Engines cannot be sandboxed on this machine.",
            param="TUNESMITH_SANDBOX",
            hint="Set TUNESMITH_INFERENCE_ENGINE to tunesmith where Landlock or namespaces work, or this to auto.",
        )
    log.warning("inference.engines_not_sandboxed", engine=engine.name, setting=setting)
    return None
