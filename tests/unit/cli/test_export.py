"""What vLLM loads of an adapter is known before anything is loaded."""

import pytest

from tunesmith.cli.results.export import check_for_vllm
from tunesmith.tuning.errors import InvalidRequest


@pytest.mark.parametrize(("rank", "needed"), [(4, 8), (16, 16), (24, 32), (300, 320)])
def test_the_rank_to_start_vllm_with_is_the_next_that_it_takes(rank: int, needed: int) -> None:
    assert check_for_vllm({"r": rank}) == needed
    assert check_for_vllm({"r": 1, "rank_pattern": {"q_proj": rank}}) == needed


@pytest.mark.parametrize("config", [{"r": 8, "use_dora": True}, {"r": 8, "modules_to_save": ["head"]}, {"r": 1024}])
def test_an_adapter_that_vllm_does_not_load_is_refused_with_the_way_out(config: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match="vLLM") as refused:
        check_for_vllm(config)
    assert "transformers" in str(refused.value.hint)
