"""The result folder: weights, tokenizer, chat template, model card, and a manifest to repeat the run from."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Category, Failure, JobFailure
from tunesmith.tuning.state import Phase
from tunesmith.worker.manifests import MANIFEST
from tunesmith.worker.run_directory import write_atomically
from tunesmith.worker.train.adapters.adapter import CONFIG_FILE, WEIGHTS_FILE
from tunesmith.worker.train.checkpoints.state import TrainState
from tunesmith.worker.train.export.card import model_card
from tunesmith.worker.train.export.manifest import manifest
from tunesmith.worker.train.export.settings import publish_settings
from tunesmith.worker.train.run import RunContext


def save_adapter(
    run: RunContext, tensors: dict[str, torch.Tensor], *, config: dict[str, object], progress: TrainState
) -> None:
    """Write an adapter in PEFT's format."""
    folder = _begin(run)
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    _finish(run, folder, progress=progress)


def save_model(run: RunContext, model: PreTrainedModel, *, progress: TrainState) -> None:
    """Write a complete model in its training dtype."""
    folder = _begin(run)
    publish_settings(model, run)
    model.save_pretrained(folder)
    _finish(run, folder, progress=progress)


def save_gathered_model(
    run: RunContext,
    model: PreTrainedModel,
    gathered: Iterator[tuple[str, torch.Tensor, torch.Tensor]],
    *,
    frozen: Iterator[tuple[str, torch.Tensor]],
    progress: TrainState,
) -> None:
    """Write one ordinary model from weights that are shared out. Call it in every process; the main one writes.

    `gathered` yields name, whole fp32 master and whole live weight; what is written is the rounded master. `frozen`
    yields the weights that did not learn.

    Raises:
        JobFailure: `gathered_model_differs` when a live weight, or one read back from the file, is another.
    """
    weights: dict[str, torch.Tensor] = {}
    for name, master, live in gathered:
        if run.is_main:
            rounded = master.to(live.dtype)
            if not torch.equal(rounded, live) or not rounded.isfinite().all():
                raise _differs(name)
            weights[name] = rounded.cpu()
    for name, live in frozen:
        if run.is_main:
            weights[name] = live.cpu()
    if not run.is_main:
        return
    folder = _begin(run)
    publish_settings(model, run)
    model.save_pretrained(folder, state_dict=weights)
    _compare(folder, revert_weight_conversion(model, weights))
    _finish(run, folder, progress=progress)


def describe(run: RunContext, *, progress: TrainState, merged: dict[str, Any] | None = None) -> None:
    """Write the model card, and the manifest last: a result folder that has one is complete."""
    folder = run.directory.output
    (folder / "README.md").write_text(model_card(run, progress, merged=merged), encoding="utf-8")
    content = manifest(run, folder, progress=progress, merged=merged)
    write_atomically(folder / MANIFEST, json.dumps(content, indent=2, sort_keys=True))


def _begin(run: RunContext) -> Path:
    run.recorder.phase(Phase.EXPORTING)
    folder = run.directory.output
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _finish(run: RunContext, folder: Path, *, progress: TrainState) -> None:
    run.tokenizer.save_pretrained(folder)
    describe(run, progress=progress)


def _compare(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """What the files hold with `weights`, named as files name them: some models fuse and rename while they load."""
    left = dict(weights)
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - not a dictionary
                if name not in left or not torch.equal(stored.get_tensor(name), left.pop(name)):
                    raise _differs(name)
    if left:
        raise _differs(next(iter(left)))


def _differs(name: str) -> JobFailure:
    return JobFailure(
        Failure(
            code=ErrorCode.GATHERED_MODEL_DIFFERS,
            message=f"The weight {name} gathered from all processes is not the one that was trained.",
            category=Category.INTERNAL,
            retryable=True,
            hint="The last checkpoint is whole: the job can go on from it.",
        )
    )
