"""What the end of a followed job says about what got better."""

from typing import Any

from tunesmith.cli.rendering.job_text import what_got_better
from tunesmith.tuning.api.jobs import JobObject, TunesmithJob
from tunesmith.tuning.api.metrics import MetricPoint

MEASURED = [(0, 3.7, 0.0), (10, None, None), (20, 1.2, 0.72), (30, 1.4, 0.7)]


def job(*, best_step: int | None = None, held_out_rows: int = 40) -> JobObject:
    result = {} if best_step is None else {"best_step": best_step}
    dataset = {"validation_rows": held_out_rows}
    return JobObject.model_construct(tunesmith=TunesmithJob.model_construct(result=result, dataset=dataset))


def points(measured: list[tuple[int, Any, Any]]) -> list[MetricPoint]:
    return [
        MetricPoint(step=step, valid_loss=loss, valid_mean_token_accuracy=accuracy) for step, loss, accuracy in measured
    ]


def test_loss_and_right_tokens_are_those_of_the_weights_that_are_the_result() -> None:
    loss, tokens = what_got_better(job(best_step=20), points(MEASURED))
    assert loss == "validation loss 3.700 -> 1.200"
    assert tokens == "right tokens 0% -> 72%, on 40 held-out rows"
    assert "-> 1.400" in what_got_better(job(), points(MEASURED))[0]


def test_one_row_is_one_row_and_preference_pairs_have_no_right_tokens() -> None:
    assert what_got_better(job(held_out_rows=1), points(MEASURED))[1].endswith("on 1 held-out row")
    assert len(what_got_better(job(), points([(0, 0.7, None), (9, 0.4, None)]))) == 1


def test_nothing_is_said_of_what_was_measured_once_or_never() -> None:
    assert what_got_better(job(), points(MEASURED[:2])) == []
    assert what_got_better(job(), []) == []
