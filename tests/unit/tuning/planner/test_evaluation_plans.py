"""An evaluation is planned as forward passes on one device."""

import pytest

from tests.unit.tuning.cases import TINY, data, spec
from tunesmith.tuning.estimates.memory import Setup, weight_bytes
from tunesmith.tuning.evaluation import EvaluationSpec
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.hardware_facts.gpus import what_if
from tunesmith.tuning.models.catalogue import find_shape
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Plan, Refusal
from tunesmith.tuning.planner.choose import choose
from tunesmith.tuning.words import Method

EXACT = {"type": "exact"}


def planned(shape: ModelShape, hardware: HardwareProfile, **changes: object) -> Plan | Refusal:
    evaluation = EvaluationSpec.model_validate({"model": "tuned", **changes})
    asked = spec(evaluation=evaluation, validation="none")
    return choose(spec=asked, shape=shape, dataset=data(200, tokens_per_row=300, longest=900), hardware=hardware)


def test_a_model_that_can_hardly_be_trained_can_be_evaluated_where_its_weights_fit() -> None:
    shape = find_shape("llama-3.1-8b")
    plan = planned(shape, what_if("1xA10G"), score=EXACT)
    assert isinstance(plan, Plan)
    weights = weight_bytes(shape, Setup(Method.LORA, "cuda", plan.precision, 1))
    assert plan.memory.items["weights"] == weights
    assert weights < plan.memory.total_bytes <= plan.memory.budget_bytes
    assert (plan.world_size, plan.learning_rate, plan.epochs, plan.total_steps) == (1, 0.0, 0, 200)
    assert "Forward passes alone" in plan.reasons[0].text


def test_one_device_must_hold_it_and_the_refusal_has_both_numbers() -> None:
    refusal = planned(find_shape("llama-3.1-70b"), what_if("8xA100-80G"))
    assert isinstance(refusal, Refusal)
    assert "holds the model whole: it needs 13" in refusal.text
    assert "GiB are free" in refusal.text


@pytest.mark.parametrize("more", [{"against": "base"}, {"score": EXACT}])
def test_another_model_and_answers_take_longer(more: dict[str, object]) -> None:
    plain, longer = (planned(TINY, what_if("1xA10G"), **changes) for changes in ({}, more))
    assert isinstance(plain, Plan)
    assert isinstance(longer, Plan)
    assert longer.time.seconds > 1.5 * plain.time.seconds


def test_adapters_and_the_keys_and_values_of_answers_are_counted() -> None:
    plan = planned(TINY, what_if("1xA10G"), score=EXACT, adapter_bytes=12345)
    assert isinstance(plan, Plan)
    assert plan.memory.items["adapters"] == 12345
    # 32 answers at once, the longest row (cut to the context of 256) and 256 tokens, 2 layers of 32 values twice.
    assert plan.memory.items["answers"] == 32 * (256 + 256) * 2 * 32 * 2 * 2
