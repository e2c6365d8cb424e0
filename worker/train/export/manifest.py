"""`manifest.json` of a result: everything that the run was made of, by hash and version, so that it can be repeated."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tunesmith.tuning
import tunesmith.worker.train
from tunesmith.worker.hashes import Seal, sealed_sha256, sha256_of
from tunesmith.worker.manifests import MANIFEST
from tunesmith.worker.train.arithmetic import arithmetic_of
from tunesmith.worker.train.checkpoints.state import TrainState
from tunesmith.worker.train.run import RunContext


def manifest(run: RunContext, folder: Path, *, progress: TrainState, merged: dict[str, Any] | None) -> dict[str, Any]:
    """The manifest of the finished run whose result lies in `folder`. `merged` is the check of a merged model."""
    request = run.request
    data = {"training_file": request.training_file, "validation_file": request.validation_file}
    return {
        "job_id": request.job_id,
        "spec": request.spec.model_dump(mode="json"),
        "plan": request.plan.model_dump(mode="json"),
        "resolved": {
            "tokens_per_micro_step": progress.token_budget // run.rows.sequences_per_row,
            "activation_checkpointing": progress.activation_checkpointing,
            "processes": run.processes,
        },
        "seed": request.plan.seed,
        "data": {name: sealed_sha256(Path(path), request.seals) for name, path in data.items() if path},
        "held_out_lines": list(request.held_out_lines),
        "base_model": hashes(run.model_folder, seals=request.seals),
        "continued_from": hashes(run.adapter_folder, seals=request.seals) if run.adapter_folder else None,
        "code": {"tunesmith": _own_version(), "source_sha256": source_sha256()},
        "versions": run.versions,
        "hardware": arithmetic_of(run.device),
        "merged": merged,
        "progress": asdict(progress),
        "files": {name: sha256 for name, sha256 in hashes(folder, deep=True).items() if name != MANIFEST},
    }


def hashes(folder: Path, *, deep: bool = False, seals: Mapping[str, Seal] = MappingProxyType({})) -> dict[str, str]:
    """SHA-256 of the files directly in a folder, or of all below it, by relative name; of sealed ones as sealed."""
    files = sorted(path for path in (folder.rglob("*") if deep else folder.iterdir()) if path.is_file())
    return {path.relative_to(folder).as_posix(): sealed_sha256(path, seals) for path in files}


def source_sha256() -> str:
    """One hash of the source that decides and trains: two checkouts of one version need not be the same code."""
    digest = hashlib.sha256()
    for package in (tunesmith.tuning, tunesmith.worker.train):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{root.name}/{path.relative_to(root).as_posix()} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


def _own_version() -> str:
    try:
        return version("tunesmith")
    except PackageNotFoundError:
        return "a source tree"  # run where it lies; the hash of the code says which
