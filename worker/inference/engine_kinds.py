"""Engines that can be started here: as which program, in which environment, and how much memory a base takes."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import TunesmithError
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.values.units import GIB
from tunesmith.worker.inference.settings import InferenceSettings

OWN = "tunesmith"
VLLM = "vllm"
_KEY = {OWN: "TUNESMITH_ENGINE_KEY", VLLM: "VLLM_API_KEY"}
_PROCESS_BYTES = GIB // 2  # of an engine with its libraries imported
_CPU_FACTOR = 2.2  # memory over file size: 16-bit weights become fp32 there, and a tenth more for caches
_GPU_FACTOR = 1.3
_LARGEST_RANK = 128  # of an adapter that vLLM is told to expect; each loaded one takes room for it


class NoEngine(TunesmithError):
    """There is no engine on this machine."""

    code = ErrorCode.MISSING_PACKAGE


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How one engine child is started. `words` are its command line."""

    words: tuple[str, ...]
    environment: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class EngineKind:
    """One of the programs that speak vLLM's routes."""

    name: str
    program: tuple[str, ...]
    context_tokens: int | None = None
    most_requests: int = 256

    def launch(
        self, folder: Path, *, served_as: str, port: int, key: str, gpus: int, listener: int | None = None
    ) -> Launch:
        """Serve the model in `folder` under the name `served_as` on this host alone; who asks needs the key.

        Our own engine can take an open `listener`, which reaches it in a network of its own.
        """
        model = ("serve", str(folder)) if self.name == VLLM else ("--model", str(folder))
        words = [*self.program, *model, "--served-model-name", served_as, "--host", "127.0.0.1", "--port", str(port)]
        if self.context_tokens is not None:
            words += ["--max-model-len", str(self.context_tokens)]
        if self.name == VLLM:
            words += ["--enable-lora", "--max-lora-rank", str(_LARGEST_RANK)]
            words += ["--tensor-parallel-size", str(gpus)] if gpus > 1 else []
        else:
            words += ["--max-waiting", str(self.most_requests)]
            words += [] if listener is None else ["--listener", str(listener)]
        environment = {_KEY[self.name]: key}
        if self.name == VLLM:
            environment |= {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_NO_USAGE_STATS": "1"}
        return Launch(words=tuple(words), environment=environment)

    def memory_bytes(self, base_bytes: int, hardware: HardwareProfile) -> int:
        """About what a base of so many bytes of files takes. vLLM takes all that there is."""
        if self.name == VLLM:
            return budget_bytes(hardware)
        return int(base_bytes * (_GPU_FACTOR if hardware.gpus else _CPU_FACTOR)) + _PROCESS_BYTES


def budget_bytes(hardware: HardwareProfile) -> int:
    """What engines may take of a slot: what is free on its first GPU, or of the host's memory."""
    return hardware.gpus[0].memory_free_bytes if hardware.gpus else hardware.cpu.memory_free_bytes


def kind_of(settings: InferenceSettings) -> EngineKind:
    """The engine that is wanted, or of those that are installed vLLM first.

    Raises:
        NoEngine: it is not installed.
    """
    for name in (VLLM, OWN) if settings.engine == "auto" else (settings.engine,):
        if program := _program(name):
            return EngineKind(
                name=name,
                program=program,
                context_tokens=settings.context_tokens,
                most_requests=settings.most_requests,
            )
    raise NoEngine(
        "No engine is installed here that could serve a model.",
        param="TUNESMITH_INFERENCE_ENGINE",
        hint="Install the worker extra or vLLM, or name one that runs elsewhere in TUNESMITH_INFERENCE_ENGINE_URL.",
    )


def _program(name: str) -> tuple[str, ...] | None:
    if name == VLLM:
        found = shutil.which(VLLM, path=os.environ.get("PATH"))
        return (found,) if found else None
    own = "tunesmith.worker.inference.engine"
    return (sys.executable, "-P", "-m", own) if importlib.util.find_spec(own) else None
