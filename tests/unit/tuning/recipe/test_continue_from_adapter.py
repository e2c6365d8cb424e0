"""A job that continues an adapter keeps it, whatever the machine could do instead."""

import pytest

from tests import plans
from tests.unit.tuning.cases import data, plan, spec
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.recipe.continue_from_adapter import as_written, continued
from tunesmith.tuning.words import Method


def test_the_planner_never_throws_an_adapter_away() -> None:
    large = {"dataset": data(60_000)}
    assert plan("llama-2-7b", "8xA100-80G", **large).method is Method.FULL
    kept = plan("llama-2-7b", "8xA100-80G", continues_adapter=True, **large)
    assert kept.method is not Method.FULL
    full = next(other for other in kept.alternatives if other.method is Method.FULL)
    assert "continues an adapter" in full.rejected_because


def test_numbers_left_open_are_the_adapters_and_dropout_stays_a_choice() -> None:
    asked = spec(lora={"dropout": 0.1, "rank": "auto"})
    found = continued(asked, plans.lora(rank=24, alpha=48, use_dora=True, target_modules=("q_proj",)))
    assert (found.lora.rank, found.lora.alpha, found.lora.dropout) == (24, 48, 0.1)
    assert (found.lora.use_dora, found.lora.target_modules) == (True, ("q_proj",))
    assert found.continues_adapter


def test_asking_for_the_shape_that_it_has_is_no_conflict() -> None:
    assert continued(spec(lora={"rank": 4}), plans.lora(rank=4)).lora.rank == 4
    with pytest.raises(InvalidRequest, match="rank 4"):
        continued(spec(lora={"rank": 8}), plans.lora(rank=4))


@pytest.mark.parametrize(("rslora", "alpha"), [(False, 16.0), (True, 8 * 2**0.5)])
def test_an_adapter_that_began_as_pissa_is_a_plain_one_of_twice_the_rank(rslora: bool, alpha: float) -> None:
    written = as_written(plans.lora(rank=4, alpha=8, init="pissa", use_rslora=rslora))
    assert (written.rank, written.init) == (8, "default")
    assert written.alpha == pytest.approx(alpha)
