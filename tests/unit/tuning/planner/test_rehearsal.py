"""An equal run's word stands for a micro-step that its memory bounds, and for no other."""

import pytest

from tests.plans import lora, plan
from tunesmith.tuning.plan import MemoryEstimate
from tunesmith.tuning.planner.rehearsal import Rehearsal, assess, settings_of
from tunesmith.tuning.values.units import GIB

EARLIER = Rehearsal(tokens=1000, longest_row_tokens=200, peak_memory_bytes=4 * GIB)


def memory(free_gib: float, *, unseen_gib: float = 0.0) -> MemoryEstimate:
    items = {"weights": 3 * GIB, "context": int(unseen_gib * GIB)}
    return MemoryEstimate(items=items, total_bytes=sum(items.values()), budget_bytes=int(free_gib * GIB))


@pytest.mark.parametrize(
    ("tokens", "longest", "free_gib", "stands", "why"),
    [
        (1000, 200, 4.0, True, "needed 4.0 GiB for 1,000 tokens at once; this one has at most 1,000, and 4.0 GiB"),
        (400, 50, 4.0, True, "at most 400"),
        (1000, 200, 3.9, False, "may need 4.0 GiB and 3.9 GiB are free"),
        (1100, 200, 4.8, False, "may need 4.8 GiB and 4.8 GiB are free"),  # 1.1 squared times 4 GiB is 4.84
        (1100, 200, 4.9, True, "at most 1,100"),
        (1000, 220, 4.8, False, "may need 4.8 GiB"),
        (1300, 200, 99.0, False, "its micro-steps are 1.30 times"),
    ],
)
def test_memory_is_bounded_by_the_square_of_what_grows(
    tokens: int, longest: int, free_gib: float, stands: bool, why: str
) -> None:
    judgement = assess(EARLIER, plan(memory=memory(free_gib)), tokens=tokens, longest_row_tokens=longest)
    assert judgement.stands is stands
    assert why in judgement.reason


def test_what_a_gpus_allocator_does_not_count_is_added() -> None:
    on_gpu = plan(device="cuda", precision="bf16", memory=memory(4.4, unseen_gib=0.5))
    assert not assess(EARLIER, on_gpu, tokens=1000, longest_row_tokens=200).stands
    roomier = on_gpu.model_copy(update={"memory": memory(4.6, unseen_gib=0.5)})
    assert assess(EARLIER, roomier, tokens=1000, longest_row_tokens=200).stands


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bf16"},
        {"attention": "sdpa"},
        {"activation_checkpointing": "full"},
        {"optimizer": "adamw_8bit"},
        {"lora": lora(rank=8)},
        {"objective": "dpo"},
        {"fused_passes": True},
    ],
)
def test_other_settings_are_another_run(change: dict[str, object]) -> None:
    assert settings_of(plan(**change)) != settings_of(plan())


@pytest.mark.parametrize("change", [{"learning_rate": 1e-5}, {"seed": 9}, {"tokens_per_micro_step": 64}, {"epochs": 9}])
def test_what_changes_no_micro_step_of_one_size_is_no_other_setting(change: dict[str, object]) -> None:
    assert settings_of(plan(**change)) == settings_of(plan())
