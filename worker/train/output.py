"""The result folder: weights, tokenizer, chat template, model card, and a manifest to repeat the run from."""

import json
import platform
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from tuning.state import Phase
from worker.train.adapter import CONFIG_FILE, WEIGHTS_FILE
from worker.train.card import model_card
from worker.train.checkpoint import Progress, sha256_of
from worker.train.run import Run


def save_adapter(run: Run, tensors: dict[str, torch.Tensor], *, config: dict[str, object], progress: Progress) -> None:
    """Write an adapter in PEFT's format."""
    folder = _begin(run)
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    _finish(run, folder, progress=progress)


def save_model(run: Run, model: PreTrainedModel, *, progress: Progress) -> None:
    """Write a complete model in its training dtype."""
    folder = _begin(run)
    model.config.use_cache = True
    model.save_pretrained(folder)
    _finish(run, folder, progress=progress)


def _begin(run: Run) -> Path:
    run.recorder.phase(Phase.EXPORTING)
    folder = run.directory.output
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _finish(run: Run, folder: Path, *, progress: Progress) -> None:
    run.tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(model_card(run, progress), encoding="utf-8")
    manifest = _manifest(run, folder, progress)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True), encoding="utf-8")


def _manifest(run: Run, folder: Path, progress: Progress) -> dict[str, Any]:
    request = run.request
    data = {"training_file": request.training_file, "validation_file": request.validation_file}
    return {
        "job_id": request.job_id,
        "spec": request.spec.model_dump(mode="json"),
        "plan": request.plan.model_dump(mode="json"),
        "seed": request.plan.seed,
        "data": {name: sha256_of(Path(path)) for name, path in data.items() if path},
        "base_model": _hashes(run.model_folder),
        "continued_from": _hashes(run.adapter_folder) if run.adapter_folder else None,
        "versions": run.versions,
        "hardware": {
            "machine": platform.machine(),
            "device": _device_name(run.device),
            "threads": torch.get_num_threads(),
        },
        "progress": asdict(progress),
        "files": _hashes(folder),
    }


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the files directly in a folder."""
    return {file.name: sha256_of(file) for file in sorted(folder.iterdir()) if file.is_file()}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
