"""Weights go from the file to their device, each once: no process holds a model in host memory that a GPU will have."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests import plans
from tests.tiny_model import build_tiny_model
from tunesmith.worker.train.models import model as models
from tunesmith.worker.train.models.model import load_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


class Asked:
    """What the library's loader was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.device_map: Any = None
        self._load = AutoModelForCausalLM.from_pretrained
        monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", self)

    def __call__(self, folder: Path, **named: Any) -> Any:
        self.device_map = named["device_map"]
        return self._load(folder, **{**named, "device_map": None})


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_loader_is_told_the_device_so_that_no_copy_is_made_on_the_host(
    folder: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    asked = Asked(monkeypatch)
    device = torch.device("cuda", 1)
    load_model(folder, plan=plans.plan(method=method), device=device)
    assert asked.device_map == {"": device}


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_loaded_model_lies_whole_on_its_device(folder: Path, method: str, precision: str) -> None:
    loaded = load_model(folder, plan=plans.plan(method=method, precision=precision), device=torch.device("cpu"))
    assert {value.device.type for value in (*loaded.parameters(), *loaded.buffers())} == {"cpu"}
    assert loaded.lm_head.weight.dtype is models.DTYPES[precision]
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
