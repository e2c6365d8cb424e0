"""Kernels on real hardware: each passes the trial that a run would give it, and no layer waits for the host."""

import importlib.util
from pathlib import Path

import pytest
import torch

from tests import plans
from tests.train import runs
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Attention
from tunesmith.tuning.search.attention_kernel import GPU_LADDER, obstacle
from tunesmith.worker.train.adapters.float8_base import problem_of
from tunesmith.worker.train.adapters.fuse import fuse
from tunesmith.worker.train.attention.choice import TOLERANCE, TRIAL_WINDOWS, _difference, _installed
from tunesmith.worker.train.data.packing import pack
from tunesmith.worker.train.data.rows import load_rows
from tunesmith.worker.train.kernels import choice, elementwise
from tunesmith.worker.train.kernels.elementwise import OPERATIONS
from tunesmith.worker.train.loop.objectives import supervised
from tunesmith.worker.train.models.model import Learner, load_model, load_tokenizer, read_config

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def shape(folder: Path) -> ModelShape:
    return ModelShape.from_config(read_config(folder))


@pytest.mark.parametrize("head_size", [64, 128, 256])
@pytest.mark.parametrize("softcap", [None, 20.0])
@pytest.mark.parametrize("attention", GPU_LADDER[:-1])
def test_an_attention_kernel_gives_what_pytorchs_own_gives(
    device: torch.device, shape: ModelShape, attention: Attention, softcap: float | None, head_size: int
) -> None:
    asked = shape.model_copy(
        update={"query_size": shape.heads * head_size, "key_value_size": 2 * head_size, "score_softcap": softcap}
    )
    capability = torch.cuda.get_device_capability() if device.type == "cuda" else None
    problem = obstacle(attention, capability=capability, installed=_installed(), precision="bf16", shape=asked)
    if problem:
        pytest.skip(f"{attention} {problem}")
    for window in TRIAL_WINDOWS:
        found = _difference(attention, window, shape=asked, dtype=torch.bfloat16, device=device)
        assert found <= TOLERANCE, f"window {window}"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_triton_kernel_passes_its_trial(device: torch.device, shape: ModelShape, operation: str) -> None:
    if importlib.util.find_spec("triton") is None or device.type != "cuda":
        pytest.skip("needs Triton and a GPU")
    assert choice.problem_of(operation, shape, device=device, dtype=torch.bfloat16) is None


def test_products_in_eight_bits_pass_their_trial(device: torch.device) -> None:
    if device.type == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs compute capability 8.9")
    assert problem_of(device) is None


def test_no_layer_waits_for_the_device(device: torch.device, folder: Path, shape: ModelShape, tmp_path: Path) -> None:
    if device.type == "cuda":
        choice.put_to_use(shape, device=device, dtype=torch.bfloat16)
    plan = plans.plan(method="full", precision="bf16")
    model = load_model(folder, plan=plan, device=device).requires_grad_(True)
    fuse(model)
    learner = Learner(model).train()
    file = runs.write_rows(tmp_path / "rows.jsonl", runs.chat_rows(6))
    rows = load_rows(file, tokenizer=load_tokenizer(folder), objective="supervised", max_sequence_length=256)
    batch = pack(range(len(rows)), rows, device=device)
    supervised().sums(learner, batch).loss.backward()  # kernels are compiled and chosen
    with _no_waiting(device):
        supervised().sums(learner, batch).loss.backward()
    for operation in OPERATIONS:
        elementwise.use(operation, None)


class _no_waiting:  # noqa: N801 - reads as a statement
    def __init__(self, device: torch.device) -> None:
        self._on = device.type == "cuda"

    def __enter__(self) -> None:
        if self._on:
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")

    def __exit__(self, *_: object) -> None:
        if self._on:
            torch.cuda.set_sync_debug_mode("default")
