"""A folder of weights, checked before anything is sent: complete, readable, and free of pickles."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.cli.models.tensors import read_header
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.models.files import COMPANIONS, SINGLE_WEIGHTS, WEIGHTS_INDEX, largest_bytes
from tunesmith.tuning.models.shape import ModelShape, is_known
from tunesmith.tuning.models.weights import Shapes, check_weights

_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json")


class BrokenModel(InvalidRequest):
    """A folder that cannot be used as a base model. `param` is the file that is wrong."""

    code = ErrorCode.BROKEN_MODEL


@dataclass(frozen=True)
class ModelFolder:
    """A folder that passed every check. `files` are the names to register, relative to `path`."""

    path: Path
    files: tuple[str, ...]
    config: dict[str, Any]
    warnings: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        """The size of everything that will be registered."""
        return sum((self.path / name).stat().st_size for name in self.files)


def inspect(path: Path) -> ModelFolder:
    """Check the folder and list what belongs to the model.

    Raises:
        BrokenModel: names the file, the reason and what to do.
        InvalidRequest: names the field of config.json that is absurd, or that the weights do not bear out.
    """
    if not path.is_dir():
        raise BrokenModel(f"{path} is not a folder.", param=str(path), hint="--path wants the folder with config.json")
    _require_own_files(path, (*sorted(COMPANIONS), WEIGHTS_INDEX, SINGLE_WEIGHTS))
    config = _config(path)
    weights, tensors = _weights(path)
    if is_known(config):
        check_weights(config, tensors)
    _require_tokenizer(path)
    _check_vocabulary(path, config)
    companions = sorted(name for name in COMPANIONS if (path / name).is_file())
    return ModelFolder(path=path, files=(*companions, *weights), config=config, warnings=tuple(_warnings(path, config)))


def _require_own_files(path: Path, names: tuple[str, ...]) -> None:
    """A link could send any file of this machine. Those of the hub's cache lead to the blobs beside it."""
    root = path.resolve()
    homes = [root, root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [root]
    for name in names:
        real = (path / name).resolve()
        if (path / name).is_symlink() and not any(real.is_relative_to(home) for home in homes):
            raise BrokenModel(
                f"{name} is a link that leads out of {path}.",
                param=name,
                hint="put the file itself there: only files of the folder are sent",
            )
        most = largest_bytes(name)
        if most is not None and real.is_file() and real.stat().st_size > most:
            raise BrokenModel(
                f"{name} has {real.stat().st_size:,} bytes; such a file may have {most:,}.",
                param=name,
                hint="look whether it is what its name says",
            )


def _config(path: Path) -> dict[str, Any]:
    config = _json_object(path, "config.json")
    if not isinstance(config.get("model_type"), str):
        raise BrokenModel(
            "config.json has no model_type.",
            param="config.json",
            hint="save the model with save_pretrained() of a current transformers release",
        )
    return config


def _json_object(path: Path, name: str) -> dict[str, Any]:
    file = path / name
    if not file.is_file():
        raise BrokenModel(f"{name} is missing in {path}.", param=name, hint="point --path at the folder that holds it")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise BrokenModel(f"{name} is not readable JSON: {error}.", param=name, hint="fetch the file again") from error
    if not isinstance(value, dict):
        raise BrokenModel(
            f"{name} holds a {type(value).__name__}, not an object.", param=name, hint="fetch the file again"
        )
    return value


def _weights(path: Path) -> tuple[tuple[str, ...], Shapes]:
    """Names of files, and the shape of every tensor in them."""
    if (path / WEIGHTS_INDEX).is_file():
        names, tensors = _sharded(path)
        return (WEIGHTS_INDEX, *names), tensors
    if (path / SINGLE_WEIGHTS).is_file():
        return (SINGLE_WEIGHTS,), _read_tensors(path, SINGLE_WEIGHTS)
    raise _without_weights(path)


def _sharded(path: Path) -> tuple[list[str], Shapes]:
    weight_map = _json_object(path, WEIGHTS_INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BrokenModel(f"{WEIGHTS_INDEX} has no weight_map.", param=WEIGHTS_INDEX, hint="fetch the file again")
    shards: dict[str, set[str]] = {}
    for tensor, shard in weight_map.items():
        shards.setdefault(str(shard), set()).add(tensor)
    found: dict[str, list[int]] = {}
    for shard, tensors in shards.items():
        found |= _read_shard(path, shard, tensors)
    return sorted(shards), found


def _read_shard(path: Path, shard: str, tensors: set[str]) -> dict[str, list[int]]:
    if Path(shard).name != shard or Path(shard).suffix != ".safetensors":
        raise BrokenModel(
            f"{WEIGHTS_INDEX} names {shard!r}, which is not a safetensors file in this folder.",
            param=WEIGHTS_INDEX,
            hint="shards lie beside the index",
        )
    if not (path / shard).is_file():
        raise BrokenModel(
            f"{shard} is missing: {WEIGHTS_INDEX} puts {len(tensors)} tensors in it.",
            param=shard,
            hint="the download may have stopped early; fetch the folder again",
        )
    _require_own_files(path, (shard,))
    found = _read_tensors(path, shard)
    absent = sorted(tensors - set(found))
    if absent:
        raise BrokenModel(
            f"{shard} lacks {absent[0]!r} and {len(absent) - 1} more that {WEIGHTS_INDEX} promises.",
            param=shard,
            hint="index and shards are from different downloads; fetch the folder again",
        )
    return found


def _read_tensors(path: Path, name: str) -> dict[str, list[int]]:
    try:
        return {tensor: list(header["shape"]) for tensor, header in read_header(path / name).items()}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise BrokenModel(
            f"{name} is damaged: {error}.",
            param=name,
            hint="the download may have stopped early; fetch the file again",
        ) from error


def _without_weights(path: Path) -> BrokenModel:
    pickles = _pickles(path)
    if pickles:
        return BrokenModel(
            f"{pickles[0]} is a pickle, and a pickle can run code when it is read.",
            param=pickles[0],
            hint="convert it once where you trust it: from_pretrained(...).save_pretrained(DIR) writes safetensors",
        )
    return BrokenModel(
        f"There are no weights in {path}: neither {SINGLE_WEIGHTS} nor {WEIGHTS_INDEX}.",
        param=SINGLE_WEIGHTS,
        hint="for a GGUF file use --gguf FILE; for an adapter, give the base model instead",
    )


def _require_tokenizer(path: Path) -> None:
    if not any((path / name).is_file() for name in _TOKENIZERS):
        raise BrokenModel(
            f"There is no tokenizer in {path}.",
            param="tokenizer.json",
            hint="save it beside the weights: AutoTokenizer.from_pretrained(...).save_pretrained(DIR)",
        )


def _check_vocabulary(path: Path, config: dict[str, Any]) -> None:
    """Tokens of the tokenizer's own; those added later may lack an embedding as long as no row has them."""
    if not is_known(config) or not (path / "tokenizer.json").is_file():
        return
    tokens = (_json_object(path, "tokenizer.json").get("model") or {}).get("vocab") or ()
    known = ModelShape.from_config(config).vocab_size
    highest = max(tokens.values(), default=0) if isinstance(tokens, dict) else len(tokens) - 1
    if highest >= known:
        raise BrokenModel(
            f"tokenizer.json has a token {highest:,}, but config.json's vocab_size is {known:,}: "
            "tokenizer and weights are of different models.",
            param="tokenizer.json",
            hint="fetch all files of the model again, from one source",
        )


def _warnings(path: Path, config: dict[str, Any]) -> list[str]:
    warnings = []
    if pickles := _pickles(path):
        warnings.append(f"{', '.join(pickles)} left out: pickles are never sent, and the safetensors are complete")
    if "auto_map" in config:
        warnings.append("config.json asks for code of its own (auto_map); it is not sent and never run")
    if not _has_chat_template(path):
        warnings.append("the tokenizer has no chat template: chat messages are written with a plain one")
    return warnings


def _has_chat_template(path: Path) -> bool:
    if (path / "chat_template.jinja").is_file() or (path / "chat_template.json").is_file():
        return True
    if not (path / "tokenizer_config.json").is_file():
        return False
    return bool(_json_object(path, "tokenizer_config.json").get("chat_template"))


def _pickles(path: Path) -> list[str]:
    return sorted(
        entry.name for entry in path.iterdir() if entry.suffix.lower() in _PICKLE_SUFFIXES and entry.is_file()
    )
