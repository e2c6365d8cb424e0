"""Sizes of popular models by their names on the hub: planning needs neither weights nor network.

`hub_models.json` holds what configs publish, with a source for each; `hub_shapes.json` the measured shapes of families
that have no formulas (`make hub-shapes`).
"""

import json
import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.models.families import MULTIMODAL, READERS
from tunesmith.tuning.models.refused_names import refusal_of
from tunesmith.tuning.models.shape import MEASURED_SHAPE, ModelShape
from tunesmith.tuning.models.spellings import is_rounded, key_of, spellings_of
from tunesmith.tuning.values.json_objects import Json

# Words behind a name that leave the sizes of the model as they are.
SAME_SIZES = ("-hf", "-base", "-instruct", "-it", "-pt", "-chat", "-bf16", "-fp16", "-sft", "-dpo", "-rlhf")
# Weights that the trainer brings into the form that it wants: which form they are in, and what becomes of them.
CONVERTED = {
    "-unsloth-bnb-4bit": "4-bit weights; this is planned with its 16-bit base, which QLoRA quantises by itself",
    "-bnb-4bit": "4-bit weights; this is planned with its 16-bit base, which QLoRA quantises by itself",
    "-bnb-8bit": "8-bit weights; this is planned with its 16-bit base",
    "-4bit": "4-bit weights; this is planned with its 16-bit base, which QLoRA quantises by itself",
    "-8bit": "8-bit weights; this is planned with its 16-bit base",
    "-gguf": "GGUF files; they are widened to 16 bits when they are registered with `tunesmith models add --gguf`",
}
# Weights that nothing here can train on, because only kernels for inference multiply with them.
FOR_INFERENCE = {
    "gptq": "GPTQ", "awq": "AWQ", "exl2": "EXL2", "exl3": "EXL3", "aqlm": "AQLM", "hqq": "HQQ", "mlx": "MLX",
    "fp8": "8-bit floating-point", "fp4": "4-bit floating-point", "nvfp4": "NVFP4", "mxfp4": "MXFP4", "w4a16": "4-bit",
    "w8a8": "8-bit", "w8a16": "8-bit", "int4": "4-bit", "int8": "8-bit", "onnx": "ONNX",
}  # fmt: skip
MLX_OWNER = "mlx-community/"  # all of its models
_FORM = re.compile(rf"[-.]({'|'.join(FOR_INFERENCE)})(?![a-z0-9])")
_NEAR = 4


class KnownModel(NamedTuple):
    """A model that a name stands for. `note` is what a person should know about how the name was read."""

    name: str
    shape: ModelShape
    note: str | None = None


def find_model(name: str) -> KnownModel:
    """The model that people mean by `Llama-3.1-8B-Instruct`, `Qwen/Qwen2.5-7B` or `unsloth/Qwen3-8B-bnb-4bit`.

    Raises:
        InvalidRequest: `unknown_model`, the hint names near ones; `model_not_trainable`, its weights are quantised for
            inference, the hint names its base; or `model_not_supported`, it is of a kind that does not train here.
    """
    key = key_of(name)
    found = _entry_of(key)
    if found is not None:
        return _known(name, found, _note_on(name, key, found))
    for written in spellings_of(key) if not key.startswith(MLX_OWNER) else ():
        if (known := _converted(name, written)) is not None:
            return known
        entry = _entry_of(written)
        if entry is not None:
            form = f"holds {CONVERTED['-gguf']}: the sizes are those of" if is_rounded(key) else "is read as"
            return _known(name, entry, f"{name} {form} {entry}.")
    raise _for_inference(name, key) or refusal_of(name, key.rpartition("/")[2]) or _unknown(name, key)


def find_shape(name: str) -> ModelShape:
    """The same model's sizes alone.

    Raises:
        InvalidRequest: as `find_model` does.
    """
    return find_model(name).shape


def hub_ids() -> list[str]:
    """Every hub id that is known, as its owner writes it."""
    return [hub_id for model in _models().values() for hub_id in model["hub_ids"]]


def _models() -> Json:
    return dict(_read("hub_models.json")["models"])


@cache
def _read(name: str) -> Json:
    content: Json = json.loads(files("tunesmith.tuning.models").joinpath(name).read_text(encoding="utf-8"))
    return content


def _config(name: str) -> Json:
    """Of a model that differs in a few numbers from another, the other's with those numbers."""
    model = _models()[name]
    config: Json = model["config"]
    return _config(model["like"]) | config if "like" in model else config


CONFIGS: dict[str, Json] = {name: _config(name) for name in _models()}


def without_formulas() -> Iterator[str]:
    """Names of models whose shape must be measured; one that differs from another in its context has the other's."""
    known = (*READERS, *MULTIMODAL)
    return (
        name for name, model in _models().items() if CONFIGS[name]["model_type"] not in known and "like" not in model
    )


@cache
def _shape(name: str) -> ModelShape:
    config = CONFIGS[name]
    measured = _read("hub_shapes.json")
    origin = _models()[name].get("like", name)
    if origin not in measured:
        return ModelShape.from_config(config)
    own_context = config.get("max_position_embeddings") if origin != name else None
    context = {"context_length": own_context} if own_context else {}
    return ModelShape.from_config(config | {MEASURED_SHAPE: measured[origin] | context})


@cache
def _names() -> dict[str, str]:
    """Entries by every way to write them: their own name, hub ids, and hub ids without their owner."""
    names: dict[str, str] = {}
    for entry, model in _models().items():
        for hub_id in model["hub_ids"]:
            full = hub_id.lower().replace("_", "-")
            names[full] = entry
            names.setdefault(full.rpartition("/")[2].removeprefix("meta-"), entry)
    return names | {entry: entry for entry in CONFIGS}


def _known(name: str, entry: str, note: str | None) -> KnownModel:
    """With a word on what does not learn of a model that sees."""
    sees = f"{name} also sees: its text part is trained, what sees stays as it is." if _sees(entry) else None
    return KnownModel(entry, _shape(entry), " ".join(filter(None, (note, sees))) or None)


def _sees(entry: str) -> bool:
    return "vision_config" in CONFIGS[entry]


def _note_on(name: str, key: str, entry: str) -> str | None:
    """What is to be known of weights as their owner publishes them; copies say in their name what they are."""
    note = _models()[entry].get("note")
    published = {hub_id.lower().rpartition("/")[2] for hub_id in _models()[entry]["hub_ids"]}
    return f"{name} {note}." if note and key.rpartition("/")[2] in published else None


def _converted(name: str, key: str) -> KnownModel | None:
    """Of weights in a form that the trainer changes, by the end of their name, the base."""
    for suffix, form in CONVERTED.items():
        base = _entry_of(key.removesuffix(suffix)) if key.endswith(suffix) else None
        if base is not None:
            return _known(name, base, f"{name} holds {form}: the sizes are those of {base}.")
    return None


def _entry_of(key: str) -> str | None:
    """By its whole name, else without the owner, else without words that leave the sizes as they are."""
    names = _names()
    if key in names:
        return names[key]
    bare = key.rpartition("/")[2].removeprefix("meta-")
    while bare not in names:
        shorter = next((bare.removesuffix(suffix) for suffix in SAME_SIZES if bare.endswith(suffix)), None)
        if shorter is None:
            return None
        bare = shorter
    return names[bare]


def _for_inference(name: str, key: str) -> InvalidRequest | None:
    found = _FORM.search(key)
    if found is not None:
        form, base = FOR_INFERENCE[found[1]], _entry_of(key[: found.start()].removesuffix("-quantized"))
    elif key.startswith(MLX_OWNER):
        form, base = "MLX", _entry_of(re.sub(r"-(?:[2-8]bit|mxfp4)(?:-dwq)?$", "", key))
    else:
        return None
    named = f"its base, {base}" if base else "its base, the model that was quantised"
    return InvalidRequest(
        f"{name} holds {form} weights, which are made for inference and cannot be trained on.",
        code=ErrorCode.MODEL_NOT_TRAINABLE,
        param="model",
        hint=f"Name {named}: with QLoRA it is quantised while it is loaded.",
    )


def _unknown(name: str, key: str) -> InvalidRequest:
    names = _names()
    bare = key.rpartition("/")[2]
    close = get_close_matches(bare, names, n=4 * _NEAR, cutoff=0.5)
    near = list(dict.fromkeys(names[match] for match in close))[:_NEAR]
    known = f"Near it: {', '.join(near)}." if near else f"{len(names):,} names are known, such as llama-3.1-8b."
    return InvalidRequest(
        f"No model is known by the name {name!r}.",
        code=ErrorCode.UNKNOWN_MODEL,
        param="model",
        hint=f"{known} Any other model: --config its config.json.",
    )
