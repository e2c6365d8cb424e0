"""Planner and trainer agree on every switch and size, over a grid of plans: what is counted is what is trained."""

from itertools import product
from typing import Any

import pytest
import torch

from tests.unit.tuning.cases import answer, data
from tunesmith.tuning.engine import fuses, logits_chunk_tokens
from tunesmith.tuning.estimates.memory import Setup, zero_sizes_of
from tunesmith.tuning.models.catalogue import find_shape
from tunesmith.tuning.plan import Plan
from tunesmith.tuning.words import Method
from tunesmith.worker.train.kernels.loss import _chunk_tokens
from tunesmith.worker.train.models.model import Learner
from tunesmith.worker.train.optim import optimizer, zero
from tunesmith.worker.train.profiling.counting import Case, build

MODELS = ("smollm2-135m", "llama-3.2-1b", "llama-3.1-8b", "qwen2.5-32b", "llama-3.1-70b")
MACHINES = ("1xT4", "1xRTX4090", "2xRTX4090", "1xA100-80G", "8xA100-80G", "8xH100")
METHODS = ("full", "lora", "qlora")


def grid() -> list[Plan]:
    plans = []
    for model, machine, method, objective in product(MODELS, MACHINES, METHODS, ("supervised", "dpo")):
        found = answer(model, machine, method=method, objective=objective, dataset=data(60_000))
        if isinstance(found, Plan):
            plans.append(found)
    return plans


PLANS = grid()


def test_the_grid_has_plans_of_every_kind() -> None:
    assert len(PLANS) > 60
    assert {plan.method.value for plan in PLANS} == set(METHODS)
    assert {0, 3} < {plan.zero_stage for plan in PLANS}


def test_own_passes_are_planned_exactly_where_they_are_trained() -> None:
    """`worker.train.methods` asks `fuses` the same question."""
    for plan in PLANS:
        assert plan.fused_passes == fuses(zero_stage=plan.zero_stage, offload_optimizer=plan.offload_optimizer)
        assert plan.fused_passes != zero.is_sharded(plan)


def test_an_adapter_over_a_shared_base_is_planned_with_the_modules_that_train_it() -> None:
    shared = [plan for plan in PLANS if plan.zero_stage == 3 and plan.method is Method.LORA]
    assert shared
    assert not any(plan.fused_passes for plan in shared)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_trainer_computes_as_many_logits_at_once_as_are_planned(device: str) -> None:
    for model, is_learning in product(MODELS, (False, True)):
        vocabulary = find_shape(model).vocab_size
        planned = logits_chunk_tokens(device=device, vocab_size=vocabulary, is_learning=is_learning)
        weight = torch.empty(vocabulary, 1, device="meta")
        hidden = type("Hidden", (), {"device": torch.device(device)})()
        assert _chunk_tokens(hidden, weight, is_learning=is_learning) == planned


def test_gradients_are_summed_in_buckets_of_the_planned_size() -> None:
    from tunesmith.tuning import engine

    assert optimizer.GRADIENT_BUCKET_BYTES is engine.GRADIENT_BUCKET_BYTES


@pytest.mark.parametrize("method", ["full", "lora"])
def test_deepspeed_gets_the_sizes_that_are_planned(method: str) -> None:
    """But for norms and biases, which the planner leaves out of a layer."""
    from tunesmith.tuning.models.catalogue import CONFIGS

    config = {name: value for name, value in CONFIGS["smollm2-135m"].items() if value is not None}
    shape = find_shape("smollm2-135m")
    learner: Learner = build(Case(config, method=method, fused=False), layers=shape.layers)
    setup = Setup(
        method=Method(method),
        device="cuda",
        precision="bf16",
        tokens_per_micro_step=512,
        rank=16,
        zero_stage=3,
        world_size=2,
    )
    given, planned = zero.sizes_of(learner), zero_sizes_of(shape, setup)
    assert given.reduced == planned.reduced
    assert given.persistent == planned.persistent
    for name in ("live", "prefetched", "gathered"):
        assert getattr(given, name) == pytest.approx(getattr(planned, name), rel=0.12), name


def test_the_settings_of_each_sharded_plan_are_read_from_the_sizes() -> None:
    for plan in PLANS:
        if not zero.is_sharded(plan):
            continue
        sizes: Any = zero._UNTIL_LOADED
        settings = zero._config(plan, sizes)["zero_optimization"]
        assert settings["stage"] == plan.zero_stage
        assert settings["reduce_bucket_size"] == sizes.reduced
        assert ("offload_optimizer" in settings) == plan.offload_optimizer
        if plan.zero_stage == 3:
            assert settings["stage3_max_live_parameters"] == sizes.live
            assert settings["stage3_prefetch_bucket_size"] == sizes.prefetched
