"""The recipe rules: each number and the reason for it."""

import math
from typing import Any

import pytest

from tests.unit.tuning.cases import TINY, cpu, data, plan, spec
from tunesmith.tuning.datasets.held_out import with_held_out_rows
from tunesmith.tuning.models.catalogue import find_shape
from tunesmith.tuning.recipe.hyperparameters import (
    choose_batch,
    choose_learning_rate,
    choose_lora,
    choose_rank,
    choose_sequence_length,
)
from tunesmith.tuning.words import Method

# The guide's rank table: rows, supervised tokens a row (simple or complex), lowest and highest rank.
RANK_TABLE = [
    (800, 100, 4, 8),
    (800, 900, 8, 16),
    (5_000, 100, 8, 16),
    (5_000, 900, 16, 32),
    (50_000, 100, 32, 64),
    (50_000, 900, 32, 64),
    (500_000, 100, 64, 128),
]


def _rank(rows: int, supervised_per_row: int, *, model: str = "llama-3.1-70b", **changes: Any) -> int:
    dataset = data(rows, tokens_per_row=2 * supervised_per_row)
    return choose_rank(spec(**changes), dataset, find_shape(model))[0]


@pytest.mark.parametrize(("rows", "supervised", "low", "high"), RANK_TABLE)
def test_rank_follows_the_guide_where_the_adapter_holds_the_data(
    rows: int, supervised: int, low: int, high: int
) -> None:
    assert low <= _rank(rows, supervised) <= high


def test_rank_rises_until_the_adapter_holds_the_data() -> None:
    rank, reason = choose_rank(spec(), data(9_000, tokens_per_row=1000), find_shape("smollm2-135m"))
    assert rank == 16 or reason.text.count("raised")
    assert find_shape("smollm2-135m").adapter_parameters(rank=rank, targets="all-linear") >= 4_500_000


def test_rank_says_when_even_the_largest_is_short() -> None:
    rank, reason = choose_rank(spec(), data(900_000), find_shape("smollm2-135m"))
    assert rank == 128
    assert "even rank 128" in reason.text


def test_a_given_rank_is_kept() -> None:
    assert _rank(100, 100, lora={"rank": 3}) == 3


@pytest.mark.parametrize("rank", [1, 4, 8, 16, 64, 128])
def test_alpha_does_not_move_with_the_rank_so_the_learning_rate_need_not(rank: int) -> None:
    assert choose_lora(spec(lora={"rank": rank}), data(), TINY)[0].alpha == 32


@pytest.mark.parametrize("rank", [8, 32, 128])
def test_rslora_scales_by_the_root_of_the_rank(rank: int) -> None:
    lora, (_, reason, *_) = choose_lora(spec(lora={"rank": rank, "use_rslora": True}), data(), TINY)
    scale, scale_at_32 = lora.alpha / rank**0.5, 32 / 32
    assert scale == pytest.approx(scale_at_32 * (32 / rank) ** 0.5)
    assert "alpha / sqrt(rank)" in reason.text


@pytest.mark.parametrize(
    ("model", "rate"),
    [("llama-3.1-8b", 2.86e-4), ("llama-3.2-1b", 4.9e-4), ("llama-3.1-70b", 1.66e-4), ("qwen3-8b", 4.7e-4)],
)
def test_learning_rate_follows_the_published_formula(model: str, rate: float) -> None:
    chosen, reason = choose_learning_rate(spec(), find_shape(model), method=Method.LORA, rows_per_step=128)
    assert chosen == pytest.approx(rate, rel=0.01)
    assert "sqrt(128/128)" in reason.text


def rate(model: str, *, method: Method, rows: int, **changes: Any) -> tuple[float, str]:
    chosen, reason = choose_learning_rate(spec(**changes), find_shape(model), method=method, rows_per_step=rows)
    return chosen, reason.text


@pytest.mark.parametrize("rows", [8, 32, 128])
def test_small_models_learn_all_of_their_weights_at_a_tenth_of_the_rate(rows: int) -> None:
    lora, _ = rate("llama-3.2-1b", method=Method.LORA, rows=rows)
    full, told = rate("llama-3.2-1b", method=Method.FULL, rows=rows)
    assert full == pytest.approx(lora / 10)
    assert "a tenth of LoRA's" in told


@pytest.mark.parametrize(("model", "rows", "most"), [("llama-3.1-8b", 128, 2e-5), ("qwen2.5-7b", 16, 1e-5)])
def test_large_models_learn_all_of_their_weights_as_careful_sources_do(model: str, rows: int, most: float) -> None:
    full, told = rate(model, method=Method.FULL, rows=rows)
    assert 5e-6 < full <= most
    assert "at most" in told


@pytest.mark.parametrize(("rows", "wanted"), [(8, 5e-6), (64, 5e-6), (128, 7.1e-6)])
def test_preference_pairs_are_learnt_as_careful_sources_do(rows: int, wanted: float) -> None:
    lora, _ = rate("qwen3-8b", method=Method.LORA, rows=rows, objective="dpo")
    full, _ = rate("qwen3-8b", method=Method.FULL, rows=rows, objective="dpo")
    assert lora == pytest.approx(wanted, rel=0.01)
    assert full == pytest.approx(wanted / 10, rel=0.01)


@pytest.mark.parametrize(("model", "rows"), [("llama-3.1-8b", 1), ("llama-3.1-8b", 16), ("qwen2.5-7b", 4)])
def test_small_batches_move_the_weights_as_far_as_those_of_others(model: str, rows: int) -> None:
    chosen, told = rate(model, method=Method.LORA, rows=rows)
    assert 3e-3 < 32 * chosen < 6e-3
    assert ("raised to the" in told) is (rows < 16)


def test_few_rows_lower_the_rate_of_a_small_model_as_the_law_says() -> None:
    by_rows = {rows: rate("smollm2-135m", method=Method.LORA, rows=rows)[0] for rows in (1, 2, 4, 16)}
    assert by_rows[2] == pytest.approx(by_rows[16] / math.sqrt(8))
    assert by_rows[4] == pytest.approx(by_rows[16] / 2)
    assert by_rows[1] == pytest.approx(1.5e-4)  # and no lower than what small batches are trained by


@pytest.mark.parametrize(("model", "is_said"), [("gemma-3-1b", True), ("mistral-7b", True), ("qwen3-8b", False)])
def test_a_family_that_nobody_calibrated_is_said(model: str, is_said: bool) -> None:
    assert ("not calibrated" in rate(model, method=Method.LORA, rows=64)[1]) is is_said
    assert "not calibrated" not in rate("llama-3.1-8b", method=Method.LORA, rows=64)[1]


def test_the_multiplier_scales_what_the_rules_choose() -> None:
    shape = find_shape("llama-3.1-8b")
    plain, _ = choose_learning_rate(spec(), shape, method=Method.LORA, rows_per_step=32)
    asked = spec(hyperparameters={"learning_rate_multiplier": 0.5})
    scaled, reason = choose_learning_rate(asked, shape, method=Method.LORA, rows_per_step=32)
    assert scaled == pytest.approx(plain / 2)
    assert "x 0.5 as asked" in reason.text


def test_a_given_learning_rate_is_kept() -> None:
    chosen, _ = choose_learning_rate(spec(learning_rate=1e-5), TINY, method=Method.LORA, rows_per_step=1)
    assert chosen == 1e-5


@pytest.mark.parametrize("rows", [40, 250, 1_000, 8_412, 60_000])
def test_a_run_has_at_least_a_hundred_steps_where_the_data_allows_it(rows: int) -> None:
    batch = choose_batch(spec(), data(rows), method=Method.LORA)
    assert batch.total_steps == -(-rows // batch.rows_per_step) * batch.epochs
    assert 1 <= batch.epochs <= (3 if rows >= 100 else 25)
    assert 1 <= batch.rows_per_step <= 64
    assert batch.total_steps >= 100


def test_where_nothing_is_held_out_the_plan_says_what_is_missing() -> None:
    few, none = data(7), spec(validation="none")
    told = " ".join(
        reason.text for reason in choose_batch(spec(), with_held_out_rows(few, spec()), method=Method.LORA).reasons
    )
    assert "too few to hold any out" in told
    assert "with 93 rows more 3 epochs would be usual" in told
    told = " ".join(reason.text for reason in choose_batch(none, data(24), method=Method.LORA).reasons)
    assert "No row is held out, as asked" in told


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (900, "16 rows per step, the largest power of two that leaves 100 steps or more: 171 steps."),
        (60_000, "64 rows per step, the most for LoRA: 1,876 steps."),
        (2, "1 row per step, because there are fewer than 100 steps even so: 50 steps."),
    ],
)
def test_the_rows_of_a_step_have_the_reason_that_chose_them(rows: int, told: str) -> None:
    assert choose_batch(spec(), data(rows), method=Method.LORA).reasons[-1].text == told


def test_given_epochs_and_batch_are_kept() -> None:
    asked = spec(hyperparameters={"n_epochs": 7, "batch_size": 5})
    batch = choose_batch(asked, data(101), method=Method.LORA)
    assert (batch.epochs, batch.rows_per_step, batch.total_steps) == (7, 5, 21 * 7)


def test_rows_are_as_long_as_the_longest() -> None:
    shape = find_shape("llama-3.1-8b")
    assert choose_sequence_length(spec(), data(longest=2310), shape)[0] == 2368
    estimated = data(longest=2310).model_copy(update={"tokens_are_exact": False})
    assert choose_sequence_length(spec(), estimated, shape)[0] == 2944


def test_rows_are_no_longer_than_the_model_was_built_for() -> None:
    length, reason = choose_sequence_length(spec(), data(longest=5000), find_shape("llama-2-7b"))
    assert length == 4096
    assert "longer rows are cut" in reason.text


def test_checkpoints_and_evaluations_are_spread_over_the_run() -> None:
    chosen = plan("smollm2-135m", cpu(), dataset=data(250, tokens_per_row=100, longest=300))
    assert chosen.total_steps // chosen.checkpoint_interval_steps >= 3
    assert 4 <= chosen.total_steps // chosen.evaluation_interval_steps <= 10


def test_every_automatic_number_has_a_reason() -> None:
    named = {reason.rule for reason in plan("llama-3.1-8b", "1xA10G").reasons}
    assert {"rank", "alpha", "targets", "learning-rate", "epochs", "batch", "sequence-length"} <= named


def test_a_mixture_whose_experts_learn_nothing_says_so() -> None:
    _, reasons = choose_lora(spec(), data(), find_shape("qwen3-30b-a3b"))
    told = next(reason.text for reason in reasons if reason.rule == "experts")
    assert "95% of all parameters, learn nothing" in told
    assert "experts" not in [reason.rule for reason in choose_lora(spec(), data(), find_shape("qwen3-8b"))[1]]
