"""An adapter's folder, in PEFT's format, as weights in memory; everything about it is checked before it answers.

Read from safetensors alone: `adapter_model.safetensors`, `adapter_config.json` and, where there is one, the
`manifest.json` that the trainer writes.
"""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from tunesmith.tuning.codes import ErrorCode
from tunesmith.worker.hashes import sha256_of
from tunesmith.worker.inference.engine.refusal import Refusal
from tunesmith.worker.manifests import MANIFEST

WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
RANK_STEP = 8  # ranks are filled up to a multiple, so that few different ones meet in a batch
MOST_CONFIG_BYTES = 1024**2
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>A|B)\.weight")
# Settings of PEFT that change what an adapter computes, and the value under which they do not.
_PLAIN: Mapping[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (False, None),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "target_parameters": (None, []),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "alpha_pattern": (None, {}),
    "lora_bias": (False, None),
    "use_qalora": (False, None),
    "alora_invocation_tokens": (None, []),
    "arrow_config": (None,),
}
_serial = itertools.count(1)


@dataclass(frozen=True)
class AdapterWeights:
    """An adapter as the engine multiplies with it: `down` [rank, in] and `up` [rank, out] by module, scale included."""

    rank: int
    down: dict[str, torch.Tensor]
    up: dict[str, torch.Tensor]
    sha256: str
    serial: int  # of this reading: what was computed with another one is not mixed with it

    @property
    def bytes(self) -> int:
        """In memory."""
        return sum(tensor.nbytes for side in (self.down, self.up) for tensor in side.values())


@dataclass(frozen=True)
class Base:
    """What an adapter has to fit: the folder of the base, and [out, in] of every linear module that can have one."""

    folder: Path
    linears: Mapping[str, tuple[int, int]]


def read_adapter(folder: Path, *, base: Base, sha256: str | None = None) -> AdapterWeights:
    """Read and check. `sha256` is what the weights' file must have, if it is known.

    Raises:
        Refusal: it cannot be read, was altered, is of another base, has no numbers, or needs what the engine lacks.
    """
    config = _config(folder)
    _require_plain(config, folder)
    _require_same_base(folder, base=base)
    try:
        content = (folder / WEIGHTS_FILE).read_bytes()
    except OSError as error:
        raise _refuse(f"{folder.name} has no readable {WEIGHTS_FILE}: only safetensors are loaded.") from error
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise _refuse(
            f"{folder.name}/{WEIGHTS_FILE} has sha256 {found[:12]}..., not {sha256[:12]}...: it was altered on disk.",
            code=ErrorCode.HASH_MISMATCH,
        )
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise _refuse(f"{folder.name}/{WEIGHTS_FILE} is no whole safetensors file.") from error
    return _weights(tensors, config=config, base=base, name=folder.name, sha256=found)


def _weights(
    tensors: Mapping[str, torch.Tensor], *, config: dict[str, Any], base: Base, name: str, sha256: str
) -> AdapterWeights:
    sides: dict[str, dict[str, torch.Tensor]] = {"A": {}, "B": {}}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise _needs_merge(f"{name} has the weight {key}", name)
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise _refuse(f"{name} holds values in {key} that are no finite numbers.")
        sides[match["side"]][match["module"]] = tensor.float()
    if not tensors or sides["A"].keys() != sides["B"].keys():
        raise _refuse(f"{name} has no pairs of lora_A and lora_B.")
    for module, down in sides["A"].items():
        _require_shape(module, down, sides["B"][module], base=base, name=name)
    rank = -(-max(len(down) for down in sides["A"].values()) // RANK_STEP) * RANK_STEP
    filled = {module: _filled(down, rank) for module, down in sides["A"].items()}
    up = {
        module: _filled(side.T * _scale(config, rank=side.shape[1], name=name), rank)
        for module, side in sides["B"].items()
    }
    return AdapterWeights(rank=rank, down=filled, up=up, sha256=sha256, serial=next(_serial))


def _filled(tensor: torch.Tensor, rank: int) -> torch.Tensor:
    whole = torch.zeros(rank, tensor.shape[1])
    whole[: len(tensor)] = tensor
    return whole


def _scale(config: dict[str, Any], *, rank: int, name: str) -> float:
    """alpha / r, or alpha / sqrt(r) under rsLoRA (arXiv 2312.03732)."""
    alpha = config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise _refuse(f"{name}/{CONFIG_FILE} has no number under lora_alpha.")
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _require_shape(module: str, down: torch.Tensor, up: torch.Tensor, *, base: Base, name: str) -> None:
    known = base.linears.get(module)
    if known is None:
        raise _another_base(f"{name} adapts {module}, which this base does not have as a linear module")
    if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1] or not down.shape[0]:
        raise _refuse(f"{name} has matrices of {module} that do not fit each other.")
    if (up.shape[0], down.shape[1]) != known:
        raise _another_base(
            f"{name} has {module} of {up.shape[0]} x {down.shape[1]}, this base {known[0]} x {known[1]}"
        )


def _config(folder: Path) -> dict[str, Any]:
    try:
        with (folder / CONFIG_FILE).open("rb") as stream:
            config = json.loads(stream.read(MOST_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise _refuse(f"{folder} is no adapter: it has no readable {CONFIG_FILE}.") from error
    if not isinstance(config, dict):
        raise _refuse(f"{folder.name}/{CONFIG_FILE} does not hold an object.")
    return config


def _require_plain(config: dict[str, Any], folder: Path) -> None:
    for setting, plain in _PLAIN.items():
        if setting in config and config[setting] not in plain:
            raise _needs_merge(f"{folder.name} was trained with {setting} {config[setting]!r:.80}", folder.name)


def _require_same_base(folder: Path, *, base: Base) -> None:
    """By the hashes in the trainer's manifest; an adapter that came without one is judged by its shapes."""
    try:
        recorded = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["base_model"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    weights = recorded.items() if isinstance(recorded, dict) else ()
    for file, sha256 in weights:
        if file.endswith(".safetensors") and base_sha256(base.folder / Path(file).name) != sha256:
            raise _another_base(f"{folder.name} was trained over a {file} with sha256 {str(sha256)[:12]}...")


_base_hashes: dict[tuple[Path, int], str] = {}


def base_sha256(file: Path) -> str | None:
    """Of a file of the base, read once while it does not change; None where there is none."""
    try:
        key = (file, file.stat().st_mtime_ns)
        if key not in _base_hashes:
            _base_hashes[key] = sha256_of(file)
    except OSError:
        return None
    return _base_hashes[key]


def _needs_merge(problem: str, name: str) -> Refusal:
    return _refuse(
        f"{problem}, which this engine does not compute beside others. Merge {name} into its base and serve the merged "
        "model, or serve it with vLLM.",
        code=ErrorCode.MODEL_NOT_SUPPORTED,
    )


def _another_base(problem: str) -> Refusal:
    return _refuse(f"{problem}: it belongs to another base.", code=ErrorCode.ADAPTER_OF_ANOTHER_BASE)


def _refuse(message: str, *, code: ErrorCode = ErrorCode.INVALID_VALUE) -> Refusal:
    return Refusal(message, code=code, param="lora_path")
