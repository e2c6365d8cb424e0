"""The models of an evaluation: bases with perhaps something on them. A base is loaded once for all that lie on it."""

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tunesmith.worker.run_directory import RunDirectory, TrainRequest
from tunesmith.worker.train.adapters.adapter import CONFIG_FILE, WEIGHTS_FILE, read_adapter
from tunesmith.worker.train.adapters.pissa import INITIAL_FILE, as_plain_adapter
from tunesmith.worker.train.methods.full import MASTERS_FILE
from tunesmith.worker.train.models.model import Learner
from tunesmith.worker.train.run import RunContext


@dataclass(frozen=True)
class Side:
    """One model: the folder of its base, and that of an adapter or of a full checkpoint's weights on it, if any."""

    name: str
    base: Path
    above: Path | None

    @property
    def replaces_weights(self) -> bool:
        """Whether what lies on the base are weights in place of its own."""
        return self.above is not None and (self.above / MASTERS_FILE).is_file()


def sides_of(request: TrainRequest) -> list[Side]:
    """The model and, if there is one, whom it is compared with."""
    above = Path(request.adapter_dir) if request.adapter_dir else None
    sides = [Side("model", Path(request.model_dir), above)]
    if (other := request.against) is not None:
        above = Path(other.adapter_dir) if other.adapter_dir else None
        sides.append(Side("against", Path(other.model_dir), above))
    return sides


def by_base(sides: Sequence[Side]) -> list[list[Side]]:
    """Those that one loaded base serves, bare ones first. Where weights are replaced, the base serves nobody else."""
    groups: dict[tuple[Path, Path | None], list[Side]] = {}
    for side in sides:
        groups.setdefault((side.base, side.above if side.replaces_weights else None), []).append(side)
    return [sorted(group, key=lambda side: side.above is not None) for group in groups.values()]


@contextmanager
def in_place(side: Side, learner: Learner, run: RunContext) -> Iterator[None]:
    """Within this the learner's model is the side's; afterwards it is the bare base again, but for replaced weights.

    Raises:
        JobFailure: `adapter_of_another_base`.
    """
    if side.above is None:
        yield
        return
    if side.replaces_weights:
        _replace_weights(learner, side.above / MASTERS_FILE)
        yield
        return
    folder = _plain_adapter(side.above, run.directory)
    adapted: Any = read_adapter(learner.causal_model, folder, model_folder=side.base, seals=run.request.seals)
    learner.eval()
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted.unload()


@torch.no_grad()
def _replace_weights(learner: Learner, file: Path) -> None:
    """By those of a checkpoint of full fine-tuning: fp32 masters, rounded to what the model computes in."""
    stored = load_file(file)
    for name, parameter in learner.causal_model.named_parameters():
        if name in stored:
            parameter.copy_(stored.pop(name))
    if stored:
        raise ValueError(f"{len(stored)} weights of the checkpoint are not in the model, the first is {min(stored)}")


def _plain_adapter(folder: Path, directory: RunDirectory) -> Path:
    """The adapter of a checkpoint under PiSSA is a change of its start: as a plain one, in the run's own folder."""
    if not (folder / INITIAL_FILE).is_file():
        return folder
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    tensors, config = as_plain_adapter(load_file(folder / WEIGHTS_FILE), load_file(folder / INITIAL_FILE), config)
    made = directory.root / "plain" / folder.name
    made.mkdir(parents=True, exist_ok=True)
    save_file(tensors, made / WEIGHTS_FILE)
    (made / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    return made
