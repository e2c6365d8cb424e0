"""The environment of the stack's processes: chosen, not inherited."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from tunesmith.local.embedded.errors import BinaryNotFound
from tunesmith.local.up.strays import MARK

_NAMES = {
    "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "TERM", "NO_COLOR", "LD_LIBRARY_PATH", "VIRTUAL_ENV",
    "PYTHONPATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy",
    "https_proxy", "no_proxy",
}  # fmt: skip
_PREFIXES = ("LC_", "XDG_", "TUNESMITH_", "CUDA_", "NVIDIA_", "NCCL_", "OMP_", "MKL_", "TORCH", "TRITON_", "HF_")
_TRACKERS = ("WANDB_", "MLFLOW_")  # of the worker alone, with their keys
_OURS = {"TUNESMITH_API_KEY", "TUNESMITH_URL", "TUNESMITH_WORKER_KEY", "TUNESMITH_STORE", "TUNESMITH_WORK_DIR"}


def base(environment: Mapping[str, str], *, data_dir: Path) -> dict[str, str]:
    """What every process gets: locale, paths, proxies, accelerator settings and our own intervals, no secret.

    A DATABASE_URL, a PGPORT or a cloud key of the user's shell stays out. The mark lets a later `up` find leftovers.
    """
    chosen = {
        name: value
        for name, value in environment.items()
        if (name in _NAMES or name.startswith(_PREFIXES)) and name not in _OURS and not name.endswith(("TOKEN", "_KEY"))
    }
    here = str(Path(sys.executable).parent)
    chosen["PATH"] = os.pathsep.join((here, environment.get("PATH", os.defpath)))
    chosen["PYTHONUNBUFFERED"] = "1"
    chosen[MARK] = str(data_dir.resolve())
    return chosen


def of_trackers(environment: Mapping[str, str]) -> dict[str, str]:
    """What the worker beside it needs to tell W&B or MLflow of its runs, keys among it; no other process gets it."""
    return {name: value for name, value in environment.items() if name.startswith(_TRACKERS)}


def has_engine(environment: Mapping[str, str]) -> bool:
    """Whether an inference worker would find something that can answer: vLLM, our own engine, or one elsewhere."""
    if environment.get("TUNESMITH_INFERENCE_ENGINE_URL") or shutil.which("vllm", path=environment.get("PATH")):
        return True
    return importlib.util.find_spec("tunesmith.worker.inference.engine") is not None


def program(name: str) -> str:
    """The full path of one of our own commands: beside this Python first. Raises BinaryNotFound."""
    beside = Path(sys.executable).parent / name
    if beside.is_file():
        return str(beside)
    if found := shutil.which(name):
        return found
    raise BinaryNotFound(f"{name} is not installed.", hint="pip install 'tunesmith[service,worker,embedded]'")
