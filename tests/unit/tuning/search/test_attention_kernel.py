"""The plan names the fastest attention kernel that every device can run, and says why not a faster one."""

from typing import Any

import pytest

from tests.unit.tuning import cases
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.hardware_facts.gpus import EVERYTHING_INSTALLED, what_if
from tunesmith.tuning.models.catalogue import find_shape
from tunesmith.tuning.search.attention_kernel import (
    CPU_LADDER,
    GPU_LADDER,
    NAMES,
    keeps_scores,
    obstacle,
    plan_attention,
    repeats_heads,
)

FLASH = {"flash_attn": "2.8", "flash_attn_3": "3.0"}
NEWEST = {**FLASH, "flash_attn_4": "4.0"}
LLAMA = find_shape("llama-3.1-8b")


def machine(name: str, **installed: str) -> HardwareProfile:
    return what_if(name).model_copy(update={"installed": EVERYTHING_INSTALLED | installed})


@pytest.mark.parametrize(
    ("name", "installed", "expected", "said"),
    [
        ("1xH100-80G", NEWEST, "flash_attention_4", "Attention by FlashAttention 4."),
        ("1xB200", NEWEST, "flash_attention_4", "Attention by FlashAttention 4."),
        ("1xA100-80G", NEWEST, "flash_attention_2", "needs compute capability 9.0 or 10.0, this GPU has 8.0"),
        ("1xH100-80G", FLASH, "flash_attention_3", "needs the package flash_attn_4, which is not installed"),
        ("1xH100-80G", {"flash_attn": "2.8"}, "flash_attention_2", "needs the package flash_attn_3, which"),
        ("1xA100-80G", FLASH, "flash_attention_2", "needs compute capability 9.0, this GPU has 8.0"),
        ("1xB200", FLASH, "flash_attention_2", "needs compute capability 9.0, this GPU has 10.0"),
        ("1xRTX4090", {}, "torch_flash", "needs the package flash_attn, which is not installed"),
        ("1xT4", FLASH, "sdpa", "FlashAttention inside PyTorch needs compute capability 8.0, this GPU has 7.5"),
    ],
)  # fmt: skip
def test_a_gpu_gets_the_fastest_kernel_that_it_can_run(
    name: str, installed: dict[str, str], expected: str, said: str
) -> None:
    chosen, reason = plan_attention(machine(name, **installed), find_shape("llama-3.1-8b"), precision="bf16")
    assert chosen == expected
    assert said in reason.text


def test_the_weakest_gpu_decides() -> None:
    mixed = machine("1xH100-80G", **FLASH)
    older = what_if("1xA100-80G").gpus[0].model_copy(update={"index": 1})
    mixed = mixed.model_copy(update={"gpus": (*mixed.gpus, older)})
    assert plan_attention(mixed, find_shape("llama-3.1-8b"), precision="bf16")[0] == "flash_attention_2"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"head_size": 64}, None),
        ({"head_size": 288}, "takes heads of up to 256 in steps of 8, this model has 288"),
        ({"head_size": 36}, "takes heads of up to 256 in steps of 8, this model has 36"),
        ({"sinks": True}, "has no attention sinks, which this model needs"),
        ({"precision": "fp32"}, "computes in 16 bits only"),
        ({"capability": None}, "needs a GPU"),
    ],
)
def test_what_flash_attention_cannot_compute_is_known_before_it_is_tried(
    changes: dict[str, Any], expected: str | None
) -> None:
    facts = {"capability": (9, 0), "installed": FLASH, "precision": "bf16"} | changes
    facts["shape"] = LLAMA.model_copy(
        update={
            "query_size": 32 * facts.pop("head_size", 128),
            "attention_sinks": facts.pop("sinks", False),
        }
    )
    for attention in ("flash_attention_3", "flash_attention_2", "torch_flash"):
        assert obstacle(attention, **facts) == expected


def test_large_heads_go_through_flex_where_it_can_be_compiled() -> None:
    shape = find_shape("llama-3.1-8b").model_copy(update={"query_size": 32 * 320})
    assert plan_attention(machine("1xA100-80G"), shape, precision="bf16")[0] == "flex"
    bare = what_if("1xA100-80G").model_copy(update={"installed": {}})
    assert plan_attention(bare, shape, precision="bf16")[0] == "sdpa"


def test_the_plan_for_a_cpu_names_the_blocked_kernel_with_a_reason() -> None:
    plan = cases.plan(cases.TINY, cases.cpu())
    assert plan.attention == "blocked"
    (reason,) = [reason for reason in plan.reasons if reason.rule == "attention"]
    assert reason.text == "Attention by matrix products over blocks of queries."


def test_the_last_of_each_ladder_runs_everywhere() -> None:
    odd = LLAMA.model_copy(update={"query_size": 32 * 7, "score_softcap": 50.0, "attention_sinks": True})
    for capability in (None, (7, 0), (9, 0)):
        for last in (GPU_LADDER[-1], CPU_LADDER[-1]):
            assert obstacle(last, capability=capability, installed=(), precision="fp32", shape=odd) is None
    assert set(NAMES) == {*GPU_LADDER, *CPU_LADDER}


@pytest.mark.parametrize("name", ["1xT4", "1xV100"])
def test_before_ampere_no_scores_are_kept_but_heads_are_repeated(name: str) -> None:
    hardware, shape = what_if(name), LLAMA
    assert not keeps_scores("sdpa", shape)
    assert repeats_heads(hardware, shape, "sdpa")
    assert not repeats_heads(hardware, find_shape("llama-2-7b"), "sdpa")
    assert not repeats_heads(what_if("1xA100-80G"), shape, "sdpa")


def test_long_rows_fit_a_t4_as_they_fit_newer_cards() -> None:
    """8,192 tokens a row were refused for scores that need not exist."""
    rows = cases.data(2000, tokens_per_row=4000, longest=8192)
    assert cases.plan("mistral-7b", "1xT4", method="qlora", dataset=rows).memory.fits
