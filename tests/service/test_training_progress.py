"""What a user reads of how training went: points, sample answers, the last step, early stopping."""

from typing import Any

import pytest

from tests.control_plane import ControlPlane
from tunesmith.tuning.errors import Category, Failure
from tunesmith.tuning.state import Outcome

TRANSIENT = Failure(code="flaky", message="The disk hiccuped.", category=Category.TRANSIENT, retryable=True)


def sample(line: int, answer: str) -> dict[str, Any]:
    return {"line": line, "prompt_end": "Count.", "reference": "One, two.", "answer": answer, "finished": True}


def create(plane: ControlPlane, **fields: Any) -> Any:
    body = {"model": "tiny-llama", "training_file": plane.upload(), **fields}
    return plane.request("POST", "/v1/fine_tuning/jobs", json=body)


def patience(evaluations: int | str, *, kind: str = "supervised") -> dict[str, Any]:
    return {"type": kind, kind: {"hyperparameters": {"early_stopping_patience": evaluations}}}


def test_a_null_in_a_later_part_of_a_step_voids_nothing(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    attempt.metrics([{"step": 1, "train_loss": None, "valid_loss": 3.0}])
    attempt.metrics([{"step": 1, "train_loss": 2.0, "valid_loss": None, "mfu": None}], start=100)
    data = control_plane.request("GET", f"/v1/fine_tuning/jobs/{attempt.job_id}/metrics").json()["data"]
    assert data == [{"step": 1, "train_loss": 2.0, "valid_loss": 3.0, "mfu": None}]


def test_sample_answers_are_shown_by_prompt_and_the_last_word_about_a_step_counts(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    path = f"/v1/fine_tuning/jobs/{attempt.job_id}/samples"
    assert control_plane.request("GET", path).json() == {"object": "list", "data": []}
    for step, words in ((0, ("ha", "hm")), (8, ("One", "Tow")), (8, ("One", "Two"))):
        said = [sample(line, answer) for line, answer in zip((7, 2), words, strict=True)]
        attempt.post("events", {"message": "Sample answers", "data": {"step": step, "samples": said}})
    attempt.post("events", {"message": "of another version", "data": {"step": 9, "samples": [{"answer": "x"}, 3]}})
    attempt.post("events", {"message": "of another version", "data": {"samples": "none"}})
    first, second = control_plane.request("GET", path).json()["data"]
    assert first == {
        "object": "tunesmith.sample",
        "line": 2,
        "prompt_end": "Count.",
        "reference": "One, two.",
        "answers": [{"step": 0, "answer": "hm", "finished": True}, {"step": 8, "answer": "Two", "finished": True}],
    }
    assert (second["line"], [answer["answer"] for answer in second["answers"]]) == (7, ["ha", "One"])
    assert control_plane.request("GET", path, key="stranger").status_code == 404


def test_a_finished_job_stands_at_its_last_step_not_at_its_last_heartbeat(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    attempt.heartbeat(step=12)
    attempt.metrics([{"step": step, "train_loss": 1.0} for step in range(1, 41)])
    attempt.metrics([{"step": step, "train_loss": 1.0} for step in range(41, 97)], start=100)
    attempt.succeed()
    job = control_plane.job(attempt.job_id)
    assert job["tunesmith"]["progress"] == {"step": 96, "total_steps": 96, "eta_seconds": None}
    (shown,) = control_plane.request("GET", f"/v1/fine_tuning/jobs/{attempt.job_id}/attempts").json()["data"]
    assert shown["step"] == 96


def test_an_attempt_that_failed_stands_where_it_came_to_and_one_without_points_where_it_beat(
    control_plane: ControlPlane,
) -> None:
    attempt = control_plane.claimed()
    attempt.heartbeat(step=2)
    attempt.metrics([{"step": 5, "train_loss": 1.0}])
    attempt.finish(Outcome.FAILED, failure=TRANSIENT)
    assert control_plane.job(attempt.job_id)["tunesmith"]["progress"]["step"] == 5
    control_plane.sql("UPDATE jobs SET not_before = now() WHERE state = 'queued'")
    second = control_plane.worker().claim()
    assert second is not None
    second.heartbeat(step=4)
    second.finish(Outcome.FAILED, failure=TRANSIENT)
    assert control_plane.job(attempt.job_id)["tunesmith"]["progress"]["step"] == 4


@pytest.mark.parametrize("kind", ["supervised", "dpo"])
def test_early_stopping_without_held_out_rows_is_refused_with_a_way_out(control_plane: ControlPlane, kind: str) -> None:
    on_all = {"validation": "none"}
    error = create(control_plane, method=patience(2, kind=kind), tunesmith=on_all).json()["error"]
    assert (error["code"], error["param"]) == ("missing_required_parameter", "validation_file")
    assert f"method.{kind}.hyperparameters.early_stopping_patience" in error["message"]
    assert "Send a validation_file" in error["hint"]
    old = {"early_stopping_patience": 2}
    old_spelling = create(control_plane, hyperparameters=old, tunesmith=on_all).json()["error"]
    assert "'hyperparameters.early_stopping_patience'" in old_spelling["message"]


@pytest.mark.parametrize("wrong", [0, 51, "2", 1.5])
def test_a_patience_that_makes_no_sense_is_refused_by_its_field(control_plane: ControlPlane, wrong: Any) -> None:
    answer = create(control_plane, method=patience(wrong), validation_file=control_plane.upload())
    assert answer.status_code == 400
    param = "method.supervised.hyperparameters.early_stopping_patience"
    assert answer.json()["error"]["param"] == param


def test_early_stopping_is_in_the_plan_with_its_reason_and_shown_only_where_it_was_asked_for(
    control_plane: ControlPlane,
) -> None:
    asked = create(control_plane, method=patience(2), validation_file=control_plane.upload()).json()
    assert asked["method"]["supervised"]["hyperparameters"]["early_stopping_patience"] == 2
    attempt = control_plane.worker().claim()
    assert attempt is not None
    plan = control_plane.job(asked["id"])["tunesmith"]["plan"]
    assert plan["early_stopping_patience"] == attempt.claim.plan.early_stopping_patience == 2
    (reason,) = [reason["text"] for reason in plan["reasons"] if reason["rule"] == "early-stopping"]
    assert f"one every {plan['evaluation_interval_steps']} of {plan['total_steps']} steps" in reason

    other = create(control_plane, method=patience("auto")).json()
    assert "early_stopping_patience" not in other["hyperparameters"]


def test_a_dry_run_knows_counted_validation_rows(control_plane: ControlPlane) -> None:
    control_plane.worker()
    counted = {"rows": 100, "tokens": 5000, "longest_row_tokens": 90, "supervised_tokens": 900}

    def ask(**more: Any) -> Any:
        body = {"model": "tiny-llama", "method": patience(3), "tunesmith": {"dataset": {**counted, **more}}}
        return control_plane.request("POST", "/v1/fine_tuning/plans", json=body)

    (entry,) = ask().json()["data"]
    assert "10 of 100 rows are held out" in str(entry["reasons"])
    (entry,) = ask(validation_rows=10).json()["data"]
    assert "held out, by hash" not in str(entry["reasons"])
    assert entry["plan"]["early_stopping_patience"] == 3
