"""When held-out rows are measured on, when that ends training, and which weights are the result."""

import pytest

from tests.unit.tuning.cases import cpu, data, plan, spec
from tunesmith.tuning.datasets.held_out import with_held_out_rows
from tunesmith.tuning.job import DatasetFacts
from tunesmith.tuning.recipe.evaluations import choose_early_stopping, evaluation_interval, keeps_best_weights
from tunesmith.tuning.recipe.hyperparameters import choose_batch
from tunesmith.tuning.words import Method


def held_out(rows: int) -> DatasetFacts:
    return with_held_out_rows(data(rows), spec())


@pytest.mark.parametrize("rows", [10, 24, 99])
def test_a_few_rows_are_trained_on_until_held_out_rows_stop_improving(rows: int) -> None:
    facts = held_out(rows)
    batch = choose_batch(spec(), facts, method=Method.LORA)
    patience, (reason,) = choose_early_stopping(spec(), facts, total_steps=batch.total_steps)
    assert (batch.epochs, patience) == (20, 3)
    assert batch.total_steps >= 100
    told = next(told.text for told in batch.reasons if told.rule == "validation")
    assert told.startswith(f"{rows // 10} of {rows} rows {'is' if rows == 10 else 'are'} held out")
    assert "nothing foretells how soon so few rows are learnt" in reason.text


def test_a_hundred_rows_are_trained_on_to_the_end() -> None:
    facts = held_out(100)
    assert choose_batch(spec(), facts, method=Method.LORA).epochs == 3
    assert choose_early_stopping(spec(), facts, total_steps=90) == (0, ())


def test_epochs_that_are_asked_for_are_not_cut_short() -> None:
    asked = spec(hyperparameters={"n_epochs": 5})
    assert choose_early_stopping(asked, held_out(24), total_steps=30) == (0, ())


def test_early_stopping_is_off_unless_asked_for_and_needs_rows_to_measure_on() -> None:
    asked = spec(hyperparameters={"early_stopping_patience": 3})
    held_out = data().model_copy(update={"validation_rows": 50})
    assert choose_early_stopping(spec(), held_out, total_steps=96) == (0, ())
    patience, (reason,) = choose_early_stopping(asked, data(), total_steps=96)
    assert (patience, "no validation rows" in reason.text) == (0, True)
    patience, (reason,) = choose_early_stopping(asked, held_out, total_steps=96)
    assert patience == 3
    assert "3 evaluations in a row" in reason.text


@pytest.mark.parametrize(("patience", "steps", "interval"), [(0, 96, 16), (1, 96, 16), (3, 96, 8), (20, 400, 10)])
def test_early_stopping_looks_often_enough_to_pay(patience: int, steps: int, interval: int) -> None:
    assert evaluation_interval(steps, patience=patience) == interval


def test_an_adapter_is_the_best_one_seen_where_something_is_held_out() -> None:
    keeps, (reason,) = keeps_best_weights(held_out(250), method=Method.QLORA, patience=0)
    assert keeps
    assert "lowest validation loss" in reason.text
    assert keeps_best_weights(data(250), method=Method.LORA, patience=0) == (False, ())


def test_a_copy_of_a_whole_model_is_kept_only_to_stop_early() -> None:
    assert keeps_best_weights(held_out(250), method=Method.FULL, patience=0) == (False, ())
    assert keeps_best_weights(held_out(250), method=Method.FULL, patience=2) == (True, ())


def test_the_plan_says_which_weights_are_the_result() -> None:
    chosen = plan("smollm2-135m", cpu(), dataset=held_out(250))
    assert chosen.keeps_best_weights
    assert any("evaluation with the lowest validation loss" in reason.text for reason in chosen.reasons)
