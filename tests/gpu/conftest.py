"""The device that these tests are for; GPU_TESTS_ON=cpu runs them without one, on small shapes."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    wanted = os.environ.get("GPU_TESTS_ON", "cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU is visible to PyTorch")
    return torch.device(wanted)


@pytest.fixture(scope="session")
def on_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, on_gpu: bool) -> Path:
    """A model with random weights: large enough on a GPU that activations outweigh what libraries hold."""
    from tests.tiny_model import build_tiny_model

    sizes = {"hidden_size": 1024, "layers": 8} if on_gpu else {}
    return build_tiny_model(tmp_path_factory.mktemp("model"), **sizes)


@pytest.fixture(autouse=True)
def clean(request: pytest.FixtureRequest) -> None:
    if "device" in request.fixturenames and request.getfixturevalue("on_gpu"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
