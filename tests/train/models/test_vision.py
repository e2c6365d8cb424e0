"""Of a model that sees too the text part alone gets adapters, whatever the job calls the modules."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, PreTrainedModel

from benchmarks.families.tiny import tiny_config
from tests import plans
from tunesmith.tuning.errors import JobFailure
from tunesmith.worker.train.adapters.adapter import adapter_tensors, attach_adapter, config_of, target_modules

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
LAYERS = 4


@pytest.fixture(scope="module", params=["gemma3", "mistral3", "qwen2_5_vl"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """The vision towers of the last two have modules of the same names as their text parts."""
    return AutoModelForImageTextToText.from_config(tiny_config(request.param))


@pytest.mark.parametrize(
    ("targets", "in_each_layer"),
    [
        ("all-linear", 7),
        ("attention_mlp", 7),
        ("attention", 4),
        (("q_proj", "v_proj"), 2),
        (("self_attn.o_proj",), 1),
        (("gate_proj", "up_proj", "down_proj"), 3),
    ],
)
def test_adapters_go_on_the_text_part_alone(model: PreTrainedModel, targets: Any, in_each_layer: int) -> None:
    found = target_modules(model, plans.lora(target_modules=targets))
    assert len(found) == in_each_layer * LAYERS
    assert all(name.startswith("model.language_model.layers.") for name in found)


@pytest.mark.parametrize(
    "target", ["vision_tower", "patch_conv", "multi_modal_projector", r".*language_model.*\.q_proj"]
)
def test_what_is_no_module_of_the_text_part_is_refused_with_those_that_are(model: PreTrainedModel, target: str) -> None:
    with pytest.raises(JobFailure) as caught:
        target_modules(model, plans.lora(target_modules=("q_proj", target)))
    assert caught.value.failure.code == "no_such_target_modules"
    assert repr(target) in caught.value.failure.message
    assert "q_proj" in str(caught.value.failure.hint)


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj")])
def test_the_stored_adapter_means_the_same_modules_when_it_is_read_back(
    tmp_path: Path, model: PreTrainedModel, targets: Any
) -> None:
    lora = plans.lora(target_modules=targets)
    first = attach_adapter(fresh(model), lora, continue_from=None, seed=1)
    tensors = adapter_tensors(first)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config_of(first, base_name="tiny", revision=None)))
    again = adapter_tensors(attach_adapter(fresh(model), lora, continue_from=tmp_path, seed=2))
    assert all(torch.equal(again[name], value) for name, value in tensors.items())
    assert len(again) == len(tensors)


def fresh(model: PreTrainedModel) -> PreTrainedModel:
    return AutoModelForImageTextToText.from_config(model.config)
