"""LoRA adapters on a frozen base, through PEFT: which modules, which initial values, which files.

Sources: LoRA (arXiv 2106.09685), rsLoRA (2312.03732), DoRA (2402.09353), PiSSA (2404.02948).
"""

import difflib
import json
import warnings
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import JobFailure
from tunesmith.tuning.models.linears import ROLES_OF_PRESET, Role, adapts_experts
from tunesmith.tuning.plan import Lora
from tunesmith.tuning.recipe import expert_adapters
from tunesmith.worker.hashes import Seal, sealed_sha256
from tunesmith.worker.manifests import MANIFEST
from tunesmith.worker.train.adapters.experts import expert_parameters
from tunesmith.worker.train.adapters.fuse import ADAPTER
from tunesmith.worker.train.failures import user_error
from tunesmith.worker.train.models.text_part import TextPart

if TYPE_CHECKING:  # full fine-tuning needs no PEFT
    from peft import PeftModel

# PEFT refuses adapters there: the state-space kernels read these weights without calling the modules.
_MAMBA = {"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"}
_BARRED_BESIDE_MAMBA = ("out_proj", "conv1d")
WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"


def attach_adapter(
    model: PreTrainedModel,
    lora: Lora,
    *,
    continue_from: Path | None,
    seed: int,
    model_folder: Path | None = None,
    seals: Mapping[str, Seal] = MappingProxyType({}),
) -> "PeftModel":
    """Freeze the base and put adapters on it: new ones, or those of `continue_from` to train on.

    Adapter weights are fp32 and the base keeps its dtype; new ones are drawn from `seed`. `model_folder` is where the
    base came from: an adapter to continue must have been trained over the same bytes, whose hashes may be `seals`.

    Raises:
        JobFailure: `no_such_target_modules`, `experts_cannot_learn`, or `adapter_of_another_base`.
    """
    from peft import LoraConfig, get_peft_model

    model.requires_grad_(False)
    torch.manual_seed(seed)
    if continue_from is not None:
        if model_folder is not None:
            _require_same_base(continue_from, model_folder=model_folder, seals=seals)
        return _continued(model, lora, continue_from)
    parameters = target_parameters(model, lora)
    targets = target_modules(model, lora)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        target_parameters=parameters or None,
        fan_in_fan_out=type(model.get_submodule(targets[0])).__name__ == "Conv1D",
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for names it is about to drop
        warnings.simplefilter("ignore", RuntimeWarning)  # and looks for experts where there are none
        return get_peft_model(model, config, autocast_adapter_dtype=True)


def read_adapter(
    model: PreTrainedModel, folder: Path, *, model_folder: Path, seals: Mapping[str, Seal] = MappingProxyType({})
) -> "PeftModel":
    """Put the adapter of a folder on a base, to compute with and not to train; `unload` takes it off again.

    Raises:
        JobFailure: `adapter_of_another_base`.
    """
    from peft import PeftModel

    _require_same_base(folder, model_folder=model_folder, seals=seals)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # as above
            warnings.simplefilter("ignore", RuntimeWarning)
            # As one that learns, for the check of its modules goes by what does.
            adapted = PeftModel.from_pretrained(model, folder, is_trainable=True, local_files_only=True)
    except (RuntimeError, ValueError, KeyError) as error:
        raise _another_base("its shapes do not fit") from error
    _require_same_modules(adapted, folder)
    return adapted


def target_modules(model: PreTrainedModel, lora: Lora) -> list[str]:
    """Full names of the linear modules that get an adapter; the output head never does.

    Raises:
        JobFailure: `no_such_target_modules`, with the names that come near.
    """
    linears = adaptable_linears(model)
    if isinstance(lora.target_modules, str):
        return [name for name in linears if role_of(name) in ROLES_OF_PRESET[lora.target_modules]]
    suffixes = lora.target_modules
    chosen = [name for name in linears if any(name == suffix or name.endswith(f".{suffix}") for suffix in suffixes)]
    unmatched = [suffix for suffix in suffixes if not any(f".{name}".endswith(f".{suffix}") for name in chosen)]
    if chosen and not unmatched:
        return chosen
    known = sorted({name.rsplit(".", 1)[-1] for name in linears})
    wrong = unmatched[0] if unmatched else "nothing"
    near = difflib.get_close_matches(wrong, known, n=3, cutoff=0.4) or known
    raise user_error(
        ErrorCode.NO_SUCH_TARGET_MODULES,
        f"No linear module of this model is called {wrong!r}.",
        hint=f"Did you mean {', '.join(near)}? This model has {', '.join(known)}.",
        param="tunesmith.lora.target_modules",
    )


def target_parameters(model: PreTrainedModel, lora: Lora) -> list[str]:
    """Full names of the bare parameters of experts that get an adapter.

    Raises:
        JobFailure: `experts_cannot_learn`.
    """
    if not adapts_experts(lora.target_modules):
        return []
    text = TextPart(model)
    names = [name for name in expert_parameters(model) if text.has(name)]
    found = expert_adapters.obstacle(lora, has_experts=bool(names))
    if found is None:
        return names
    raise user_error(ErrorCode.EXPERTS_CANNOT_LEARN, found.text, hint=found.hint, param=f"tunesmith.lora.{found.param}")


def file_key(name: str) -> str:
    """The name that PEFT's file format gives to a parameter of the wrapped model."""
    return name.replace(f".lora_magnitude_vector.{ADAPTER}.weight", ".lora_magnitude_vector").replace(f".{ADAPTER}", "")


def config_of(model: "PeftModel", *, base_name: str, revision: str | None) -> dict[str, object]:
    """What adapter_config.json holds for the adapter as it stands; `base_name` rather than a folder of this host."""
    config = model.peft_config[ADAPTER].to_dict()
    config.update(inference_mode=True, base_model_name_or_path=base_name, revision=revision)
    return {name: _plain(value) for name, value in config.items()}


def _plain(value: object) -> object:
    if isinstance(value, set):
        return sorted(value)
    return value.value if isinstance(value, Enum) else value


def _continued(model: PreTrainedModel, lora: Lora, folder: Path) -> "PeftModel":
    from peft import LoraConfig, PeftModel

    try:
        config = LoraConfig.from_pretrained(str(folder))
        config.lora_dropout = lora.dropout  # not part of what was learned
        adapted = PeftModel.from_pretrained(model, folder, config=config, is_trainable=True, local_files_only=True)
    except (RuntimeError, ValueError, KeyError) as error:
        raise _another_base("its shapes do not fit") from error
    _require_same_modules(adapted, folder)
    return adapted


def _require_same_modules(adapted: "PeftModel", folder: Path) -> None:
    """A base of other depth lacks modules for some of the weights, or has more: PEFT passes over both in silence."""
    if set(load_file(folder / WEIGHTS_FILE)) != set(adapter_tensors(adapted)):
        raise _another_base("it has weights for other modules")


def _require_same_base(folder: Path, *, model_folder: Path, seals: Mapping[str, Seal]) -> None:
    """By the hashes that the adapter's manifest holds; an adapter that came without one is judged by its shapes."""
    if not (folder / MANIFEST).is_file():
        return
    recorded = json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("base_model", {})
    weights = {name: sha256 for name, sha256 in recorded.items() if name.endswith(".safetensors")}
    for name, sha256 in weights.items():
        if not (model_folder / name).is_file() or sealed_sha256(model_folder / name, seals) != sha256:
            raise _another_base(f"it was trained over a {name} with sha256 {sha256[:12]}...")


def _another_base(reason: str) -> JobFailure:
    return user_error(
        ErrorCode.ADAPTER_OF_ANOTHER_BASE,
        f"The adapter does not belong to this base model: {reason}.",
        hint="Take an adapter that was trained on the same base model.",
        param="model",
    )


def adaptable_linears(model: PreTrainedModel) -> list[str]:
    """Full names of the linear modules of the text part that an adapter can go on."""
    head, text = model.get_output_embeddings(), TextPart(model)
    barred = _barred(str(model.config.model_type))
    return [
        name
        for name, module in model.named_modules()
        if module is not head
        and text.has(name)
        and _is_linear(module)
        and not any(f".{name}".endswith(f".{suffix}") for suffix in barred)
    ]


def role_of(path: str) -> Role:
    """What the linear module of this name belongs to."""
    return "attention" if "attn" in path or "attention" in path else "mlp"


def _barred(family: str) -> tuple[str, ...]:
    """Ends of names that PEFT refuses, or takes for the experts of a mixture, which it then adapts in their place."""
    from peft.utils import transformers_weight_conversion as conversion

    pattern = conversion._MODEL_TO_CONVERSION_PATTERN.get(family)  # noqa: SLF001 - it has no other way to ask
    taken_for_experts = conversion._MOE_TARGET_MODULE_MAPPING.get(pattern, {})  # noqa: SLF001
    return (*taken_for_experts, *(_BARRED_BESIDE_MAMBA if family in _MAMBA else ()))


def _is_linear(module: nn.Module) -> bool:
    """Routers of some mixtures call themselves linear and return more than a product."""
    if not isinstance(module, nn.Linear):
        return type(module).__name__ == "Conv1D"
    is_plain = type(module).forward is nn.Linear.forward or type(module).__module__.startswith("bitsandbytes")
    return is_plain or _returns_a_product(module)


@torch.no_grad()
def _returns_a_product(module: nn.Linear) -> bool:
    weight = module.weight
    if weight.ndim != 2:  # shared out among processes
        return False
    try:
        made = module(torch.zeros(1, weight.shape[1], dtype=weight.dtype, device=weight.device))
    except (RuntimeError, TypeError, ValueError):  # it wants more than one row of inputs
        return False
    return isinstance(made, torch.Tensor) and made.shape == (1, weight.shape[0])


def trainable_parameters(model: nn.Module) -> int:
    """Entries that learn."""
    return sum(value.numel() for value in model.parameters() if value.requires_grad)


@torch.no_grad()
def adapter_tensors(model: "PeftModel") -> dict[str, torch.Tensor]:
    """The adapter's weights by the names of PEFT's file format, on the host."""
    return {
        file_key(name): value.detach().to("cpu").contiguous()
        for name, value in model.named_parameters()
        if value.requires_grad
    }
