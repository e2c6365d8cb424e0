"""Experts as targets of adapters: what a plan says and counts, and what it refuses."""

import warnings
from typing import Any

import pytest

from tests.unit.tuning.cases import answer, plan
from tests.unit.tuning.estimates.test_memory import _measured_and_predicted
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.estimates.memory import Setup, estimate
from tunesmith.tuning.job import JobSpec
from tunesmith.tuning.models.catalogue import find_shape
from tunesmith.tuning.plan import Refusal
from tunesmith.tuning.planner.checks import check_targets
from tunesmith.tuning.recipe.expert_adapters import PRESET
from tunesmith.tuning.words import Method

SIZES = {
    "vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 8,
    "num_key_value_heads": 2, "max_position_embeddings": 1024,
}  # fmt: skip
MIXTURES = {
    "mixtral": {**SIZES, "num_local_experts": 8},
    "qwen3_moe": {**SIZES, "num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 128, "head_dim": 32},
}
FAR_SETTINGS: list[dict[str, Any]] = [
    {},
    *({"checkpointing": mode} for mode in ("selective", "mlp", "full")),
    {"precision": "fp32"},
    {"rank": 4},
    {"device": "cpu", "tokens": 64},
]
MIXTRAL = find_shape("mixtral-8x7b")


@pytest.mark.parametrize("setting", FAR_SETTINGS, ids=str)
@pytest.mark.parametrize("targets", ["all-linear", PRESET])
@pytest.mark.parametrize("family", MIXTURES)
@pytest.mark.torch
def test_what_a_mixture_keeps_for_the_backward_pass_is_within_one_per_cent(
    family: str, targets: str, setting: dict[str, Any]
) -> None:
    config = {"model_type": family, **MIXTURES[family]}
    options = {"targets": targets, "tokens": 512, **setting}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        measured, predicted = _measured_and_predicted(config, **options)
    assert predicted == pytest.approx(measured, rel=0.01)


def test_a_plan_says_that_the_experts_learn_where_they_do_and_how_to_ask_where_they_do_not() -> None:
    quiet, asked = (reasons(target_modules=targets) for targets in ("all-linear", PRESET))
    assert "learn nothing" in quiet["experts"]
    assert f"target_modules '{PRESET}' gives each expert one" in quiet["experts"]
    assert "97% of all parameters, learn: each has an adapter of its own" in asked["experts"]
    assert "experts.gate_up_proj, experts.down_proj" in asked["targets"]
    assert "experts" not in quiet["targets"]


def test_a_plan_with_experts_counts_an_adapter_for_each_and_shares_nothing_out() -> None:
    made = plan("mixtral-8x7b", "8xB200", method="lora", lora={"target_modules": PRESET, "rank": 8})
    assert made.lora is not None
    on_experts = 8 * 32 * 8 * ((4096 + 2 * 14336) + (14336 + 4096))
    on_the_rest = MIXTRAL.adapter_parameters(rank=8, targets="all-linear")
    assert made.lora.trainable_parameters == on_experts + on_the_rest
    assert (made.zero_stage, made.sharded_base) == (0, False)


def test_experts_cost_memory_that_grows_with_all_of_them_and_operations_that_do_not() -> None:
    setups = [
        Setup(
            method=Method.LORA, device="cuda", precision="bf16", tokens_per_micro_step=2048, rank=8, targets=targets,
            fused_passes=True,
        )
        for targets in ("all-linear", PRESET)
    ]  # fmt: skip
    without, with_experts = (estimate(MIXTRAL, setup, budget_bytes=0).items for setup in setups)
    more = MIXTRAL.adapter_parameters(rank=8, targets=PRESET) - MIXTRAL.adapter_parameters(rank=8, targets="all-linear")
    assert with_experts["adapters_and_optimizer"] - without["adapters_and_optimizer"] == 12 * more
    assert with_experts["gradients"] - without["gradients"] == 4 * more
    sleeping = MIXTRAL.sleeping_adapter_parameters(rank=8, targets=PRESET)
    assert sleeping == more * 6 // 8
    assert MIXTRAL.sleeping_adapter_parameters(rank=8, targets="all-linear") == 0


@pytest.mark.parametrize(
    ("model", "lora", "param", "said"),
    [
        ("llama-3.1-8b", {}, "target_modules", "This model has no experts that an adapter can go on."),
        ("mixtral-8x7b", {"dropout": 0.1}, "dropout", "Adapters on experts do not go with dropout."),
        ("mixtral-8x7b", {"use_dora": True}, "use_dora", "Adapters on experts do not go with DoRA."),
        ("mixtral-8x7b", {"init": "pissa"}, "init", "Adapters on experts do not go with PiSSA."),
    ],
)
def test_what_cannot_work_is_refused_with_a_next_step(model: str, lora: dict[str, Any], param: str, said: str) -> None:
    asked = {"target_modules": PRESET, **lora}
    refusal = answer(model, "8xH100", method="lora", lora=asked)
    assert isinstance(refusal, Refusal)
    assert said in refusal.text
    assert "all-linear" in refusal.text
    with pytest.raises(InvalidRequest) as caught:
        check_targets(JobSpec.model_validate({"model": model, "seed": 1, "lora": asked}), find_shape(model))
    assert (caught.value.code, caught.value.param) == ("experts_cannot_learn", f"tunesmith.lora.{param}")
    assert caught.value.hint


def reasons(**lora: Any) -> dict[str, str]:
    made = plan("mixtral-8x7b", "8xB200", method="lora", lora={"rank": 8, **lora})
    return {reason.rule: reason.text for reason in made.reasons}
