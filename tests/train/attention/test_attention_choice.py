"""The trainer uses the planned attention kernel if it works here, else the next, and says so."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Attention
from tunesmith.worker.train.attention.choice import Choice, find_attention
from tunesmith.worker.train.attention.kernels import KERNELS, sdpa
from tunesmith.worker.train.attention.segments import Scores, Segments
from tunesmith.worker.train.models.model import read_config

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def choose(model: Path) -> Callable[[Attention], Choice]:
    shape = ModelShape.from_config(read_config(model))
    return lambda planned: find_attention(planned, shape, device=CPU, precision="bf16")


@pytest.mark.parametrize("planned", ["blocked", "sdpa"])
def test_a_planned_kernel_that_works_is_used(choose: Callable[[Attention], Choice], planned: Attention) -> None:
    assert choose(planned) == Choice(planned)


@pytest.mark.parametrize("planned", ["flash_attention_3", "flash_attention_2", "torch_flash", "flex"])
def test_a_kernel_for_gpus_gives_way_on_a_cpu(choose: Callable[[Attention], Choice], planned: Attention) -> None:
    choice = choose(planned)
    assert choice.attention == "blocked"
    assert len(choice.rejected) == 1
    assert choice.rejected[0].endswith("needs a GPU")


def wrong_forward(*states: torch.Tensor, **named: object) -> torch.Tensor:
    return sdpa(*states, **named) * 1.1


def wrong_backward(query: torch.Tensor, *states: torch.Tensor, **named: object) -> torch.Tensor:
    return sdpa(query.detach() + 0 * query, *states, **named)


def not_a_number(*states: torch.Tensor, **named: object) -> torch.Tensor:
    return sdpa(*states, **named) * float("nan")


def without_window(*states: torch.Tensor, segments: Segments, scores: Scores) -> torch.Tensor:
    return sdpa(*states, segments=segments, scores=replace(scores, window=None))


def without_cap(*states: torch.Tensor, segments: Segments, scores: Scores) -> torch.Tensor:
    return sdpa(*states, segments=segments, scores=replace(scores, softcap=None))


def broken(*_states: torch.Tensor, **_named: object) -> torch.Tensor:
    raise ImportError("undefined symbol: flash_fwd\nand more")


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (wrong_forward, "gave other numbers"),
        (wrong_backward, "gave other numbers"),
        (not_a_number, "gave other numbers"),
        (without_window, "gave other numbers"),
        (broken, "failed its trial here (ImportError: undefined symbol: flash_fwd)"),
    ],
)
def test_a_kernel_that_fails_its_trial_is_not_trusted(
    choose: Callable[[Attention], Choice], monkeypatch: pytest.MonkeyPatch, kernel: object, said: str
) -> None:
    monkeypatch.setitem(KERNELS, "blocked", kernel)
    choice = choose("blocked")
    assert choice.attention == "sdpa"
    assert said in choice.rejected[0]


def test_a_kernel_that_ignores_the_cap_is_not_trusted_for_a_model_that_needs_it(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = ModelShape.from_config(read_config(model)).model_copy(update={"score_softcap": 0.5})
    assert find_attention("blocked", shape, device=CPU, precision="bf16") == Choice("blocked")
    monkeypatch.setitem(KERNELS, "blocked", without_cap)
    choice = find_attention("blocked", shape, device=CPU, precision="bf16")
    assert choice.attention == "sdpa"
    assert "gave other numbers" in choice.rejected[0]


def test_a_trial_draws_no_random_number_of_the_run(choose: Callable[[Attention], Choice]) -> None:
    before = torch.random.get_rng_state()
    choose("blocked")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_run_says_that_its_planned_kernel_was_not_used(tmp_path: Path, model: Path) -> None:
    plan = plans.plan(attention="flash_attention_2", epochs=1)
    directory = runs.make_run(tmp_path, model=model, plan=plan)
    assert runs.train_here(directory) == 0
    (event,) = [event for event in runs.events(directory) if "planned" in event.get("data", event)]
    assert event["level"] == "warn"
    assert event["message"] == (
        "Attention runs by matrix products over blocks of queries, not as planned: FlashAttention 2 needs a GPU."
    )


def test_a_run_trains_through_the_planned_kernel_alone(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = set()
    for name in ("blocked", "sdpa"):
        monkeypatch.setitem(KERNELS, name, lambda *states, name=name, **named: used.add(name) or sdpa(*states, **named))
    directory = runs.make_run(tmp_path, model=model, plan=plans.plan(attention="sdpa", epochs=1))
    assert runs.train_here(directory) == 0
    assert used == {"sdpa"}
