"""Families whose rows cannot be packed are planned one row at a time; those that the trainer refuses are refused."""

import pytest

from tests.unit.tuning.cases import cpu, data, plan
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.models.catalogue import find_shape
from tunesmith.tuning.models.packing import REFUSED, SEES_LATER_TOKENS, not_supported
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Plan


def like_llama(family: str) -> ModelShape:
    return find_shape("llama-3.2-1b").model_copy(update={"family": family})


def planned(family: str, machine: str = "1xRTX4090", *, longest: int = 2048) -> Plan:
    on = cpu() if machine == "cpu" else machine
    return plan(like_llama(family), on, dataset=data(longest=longest))


def test_a_family_that_packs_is_planned_with_full_micro_steps() -> None:
    found = planned("llama")
    assert found.packing
    assert found.tokens_per_micro_step > 2048


@pytest.mark.parametrize("machine", ["1xRTX4090", "2xA100-80GB-SXM", "cpu"])
def test_rows_of_other_families_go_alone_and_take_longer(machine: str) -> None:
    packed, alone = planned("llama", machine), planned("lfm2", machine)
    assert not alone.packing
    assert alone.tokens_per_micro_step == alone.max_sequence_length
    assert alone.attention == "sdpa"
    assert alone.time.seconds > packed.time.seconds
    assert alone.kernels.endswith("unpacked")
    (said,) = [reason.text for reason in alone.reasons if reason.rule == "packing"]
    assert "lfm2 cannot be packed" in said


def test_attention_that_is_written_out_keeps_its_scores() -> None:
    def peak(family: str, longest: int) -> int:
        return planned(family, longest=longest).memory.items["activations"]

    assert peak("bloom", 1024) > 2 * peak("lfm2", 1024)


@pytest.mark.parametrize("family", REFUSED)
def test_what_the_trainer_refuses_is_refused_before_with_the_same_sentence(family: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        ModelShape.from_config({"model_type": family})
    assert refusal.value.code == "model_not_supported"
    assert refusal.value.message == not_supported(REFUSED[family])
    assert refusal.value.param == "config.model_type"


def test_a_model_that_was_made_a_decoder_is_not_refused_for_its_family() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        ModelShape.from_config({"model_type": "bert", "is_decoder": True})
    assert SEES_LATER_TOKENS not in refusal.value.message
