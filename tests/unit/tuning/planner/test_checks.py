"""A refusal that no hardware could lift names the field of the request to change."""

from typing import Any

import pytest

from tests.unit.tuning.cases import TINY, data, spec
from tunesmith.tuning.job import DatasetFacts
from tunesmith.tuning.plan import PlanRule
from tunesmith.tuning.planner.checks import impossible

NOTHING = data().model_copy(update={"supervised_tokens": 0})


@pytest.mark.parametrize(
    ("changes", "dataset", "param"),
    [
        ({}, NOTHING, "training_file"),
        ({"max_seq_length": 4096}, data(), "tunesmith.max_seq_length"),
        ({"method": "lora", "lora": {"target_modules": ["router"]}}, data(), "tunesmith.lora.target_modules"),
        ({"method": "lora", "lora": {"target_modules": "all-linear+experts"}}, data(), "tunesmith.lora.target_modules"),
    ],
)
def test_the_rule_names_the_field_to_blame(changes: dict[str, Any], dataset: DatasetFacts, param: str) -> None:
    refusal = impossible(spec=spec(**changes), shape=TINY, dataset=dataset)
    assert refusal is not None
    assert PlanRule(refusal.reasons[0].rule).param == param
