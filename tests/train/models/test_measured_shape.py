"""Families without formulas: measured on the meta device, then planned like any other."""

import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.families.tiny import tiny_config
from tests.unit.tuning.cases import plan
from tunesmith.cli.models.measure import with_shape
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.estimates.activations import Graph, layer_bytes_per_token
from tunesmith.tuning.models.packing import SEES_LATER_TOKENS
from tunesmith.tuning.models.shape import MEASURED_RANK, MEASURED_SHAPE, ModelShape
from tunesmith.tuning.plan import Lora
from tunesmith.worker.train.adapters.adapter import attach_adapter, trainable_parameters
from tunesmith.worker.train.profiling.counting import Case, counted_bytes_per_token, layer_bytes, untrained
from tunesmith.worker.train.profiling.shape import main, measure_shape

SIZES = {
    "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 7, "num_attention_heads": 8,
    "num_key_value_heads": 4, "vocab_size": 3000, "max_position_embeddings": 2048,
}  # fmt: skip
FAMILIES = ("olmo2", "cohere", "starcoder2", "stablelm", "falcon", "olmo3")
OF_OTHER_SHAPES = (
    "bloom",
    "xglm",
    "qwen3_5_text",
    "lfm2",
    "gemma3",
    "mistral3",
    "deepseek_v3",
    "gpt_oss",
    "qwen3_next",
)


def config(family: str) -> dict[str, Any]:
    return {"model_type": family, **SIZES}


def tiny(family: str) -> dict[str, Any]:
    own: dict[str, Any] = tiny_config(family).to_dict()
    return own


def _lora(*, rank: int) -> Lora:
    return Lora(rank=rank, alpha=8, dropout=0.0, target_modules="all-linear", trainable_parameters=1)


@cache
def measured(family: str) -> ModelShape:
    return measure_shape(config(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_measured_family_has_exactly_the_parameters_of_the_model(family: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config(family)))
    assert measured(family).parameters == sum(parameter.numel() for parameter in model.parameters())


def test_layers_with_heads_of_different_widths_are_measured_and_the_widest_counts() -> None:
    heads = {"head_dim": 16, "global_head_dim": 32, "attention_k_eq_v": True, "num_global_key_value_heads": 1}
    wide = config("gemma4_text") | {"vocab_size_per_layer_input": 3000} | heads
    with torch.device("meta"):
        model = untrained(wide, dtype=torch.bfloat16)
    shape = measure_shape(wide)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (shape.query_size, shape.key_value_size) == (8 * 32, 4 * 16)


@pytest.mark.mostly_slow(rows=4)
@pytest.mark.parametrize("family", OF_OTHER_SHAPES)
def test_recurrent_seeing_and_sparse_families_have_exactly_the_parameters_of_the_model(family: str) -> None:
    with torch.device("meta"):
        model = untrained(tiny(family), dtype=torch.bfloat16)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        adapted = attach_adapter(model, _lora(rank=4), continue_from=None, seed=0)
    shape = measure_shape(tiny(family))
    assert shape.parameters + shape.outside_parameters == parameters
    assert shape.adapter_parameters(rank=4, targets="all-linear") == trainable_parameters(adapted)
    assert (shape.outside_parameters > 0) == (family in ("gemma3", "mistral3"))


@pytest.mark.parametrize("family", ["lfm2", "qwen3_next", "deepseek_v3"])
def test_the_first_layer_of_each_kind_stands_for_all_of_them(family: str) -> None:
    case = Case(tiny(family) | {"num_hidden_layers": 8, "layer_types": None}, rank=MEASURED_RANK)
    whole = [layer_bytes(replace(case, tokens=tokens), layers=8) / tokens for tokens in (case.tokens, 2 * case.tokens)]
    assert counted_bytes_per_token(case) == pytest.approx(2 * whole[0] - whole[1], rel=0.01)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["full", "lora"])
def test_its_memory_is_within_one_per_cent_at_another_depth_length_and_rank(family: str, method: str) -> None:
    case = Case(config(family), method=method, tokens=384, rank=8)
    truth = layer_bytes(case, layers=6) / 384
    graph = Graph(full=method == "full", width=2, rank=8, fused=True)
    assert layer_bytes_per_token(measured(family), graph) == pytest.approx(truth, rel=0.01)


def test_an_unknown_family_says_what_will_happen_and_a_stored_shape_plans() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        ModelShape.from_config(config("olmo2"))
    assert refusal.value.code == "unknown_model_family"
    assert refusal.value.hint is not None
    assert "tunesmith models add" in refusal.value.hint

    shape = measured("olmo2")
    stored = json.loads(json.dumps(config("olmo2") | {MEASURED_SHAPE: shape.model_dump(mode="json")}))
    assert ModelShape.from_config(stored) == shape
    assert plan(ModelShape.from_config(stored), "1xRTX4090").memory.fits


@pytest.mark.parametrize("change", [{"layers": 0}, {"layers": -1}, {"heads": "many"}, {"linears": []}, {"nome": 1}])
def test_a_broken_stored_shape_is_refused_by_its_key(change: dict[str, Any]) -> None:
    stored = measured("olmo2").model_dump(mode="json") | change
    with pytest.raises(InvalidRequest) as refusal:
        ModelShape.from_config(config("olmo2") | {MEASURED_SHAPE: stored})
    assert refusal.value.param == f"config.{MEASURED_SHAPE}"


@pytest.mark.parametrize(
    ("family", "code", "reason"),
    [
        ("no-such-family", "unknown_model_family", "no-such-family"),
        ("bert", "model_not_supported", SEES_LATER_TOKENS),
    ],
)
def test_a_family_that_cannot_be_measured_is_refused_with_a_reason(
    family: str,
    code: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config(family)))
    monkeypatch.setattr(sys, "argv", ["shape", str(tmp_path / "config.json")])
    assert main() == 1
    said = json.loads(capsys.readouterr().err.strip().splitlines()[-1])
    assert said["code"] == code
    assert reason in said["message"]


@pytest.mark.slow
def test_the_command_measures_a_family_that_it_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_DATA_DIR", str(tmp_path))
    stored = with_shape(config("olmo2"))
    assert ModelShape.from_config(stored) == measured("olmo2")
    assert with_shape(stored) == stored


def test_a_family_whose_layers_read_values_is_planned_by_formula_from_its_own_matrices() -> None:
    shape = measure_shape(tiny("apertus"))
    assert shape.measured is None
    stored = tiny("apertus") | {MEASURED_SHAPE: shape.model_dump(mode="json")}
    assert plan(ModelShape.from_config(stored), "1xRTX4090").memory.fits
