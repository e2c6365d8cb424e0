"""One tiny base, twelve adapters of it, and engines over them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tunesmith.worker.train import environment  # noqa: F401 - before torch  # isort: skip
import torch

from tests.inference.engine.asking import MODULES, Asker, write_adapter
from tests.tiny_model import build_tiny_model
from tunesmith.worker.inference.engine.answering.engine import Engine, Limits
from tunesmith.worker.inference.engine.compute.model import BatchModel

ADAPTERS = 12


@pytest.fixture(scope="module", autouse=True)
def two_threads() -> Iterator[None]:
    """As on the smallest host: work that is shared out must give the same bits too."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def model(base: Path) -> BatchModel:
    return BatchModel.load(base)


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of three ranks and five sets of modules."""
    root = tmp_path_factory.mktemp("adapters")
    return {
        f"a{seed}": write_adapter(
            root / f"a{seed}", seed=seed, rank=(4, 8, 12)[seed % 3], modules=list(MODULES)[: 3 + seed % 5]
        )
        for seed in range(ADAPTERS)
    }


@pytest.fixture
def new_asker(base: Path, model: BatchModel, adapters: dict[str, Path]) -> Callable[..., Asker]:
    """An engine of its own over the one model, with the adapters loaded; other keywords are its limits."""

    def make(*, loaded: dict[str, Path] = adapters, **limits: Any) -> Asker:
        engine = Engine(model, limits=Limits(**limits))
        for name, folder in loaded.items():
            engine.residents.load(name, folder)
        return Asker(engine, base)

    return make


@pytest.fixture
def asker(new_asker: Callable[..., Asker]) -> Asker:
    return new_asker()
