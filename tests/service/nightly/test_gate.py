"""A schedule with a gate of its own: each result is measured beside the champion, and only a better one is promoted."""

from typing import Any

import pytest

from tests.control_plane import chat_rows
from tests.service.evaluations.test_evaluations import hand_over, rows
from tests.service.nightly.nights import PROD, Nights
from tunesmith.tuning.errors import Category, Failure
from tunesmith.tuning.state import Outcome

BETTER, WORSE = [0.4, 0.5] * 12, [-0.4, -0.5] * 12
PATTERN = "gate.score.pattern"
ROWS = {"rows": {"filename": "held-out.jsonl"}}
HELD_OUT, RAIL = "held-out.jsonl", "rail.jsonl"


@pytest.fixture
def gated(nights: Nights) -> Nights:
    for number, name in enumerate((HELD_OUT, RAIL)):
        nights.plane.upload(chat_rows(30 + number), name=name)
    nights.create(alias=PROD, promotion="on_verdict", gate={"rows": {"filename": HELD_OUT}})
    return nights


def trained(nights: Nights, count: int) -> tuple[str, str]:
    """A night whose job has succeeded and whose result is being measured; the firing's id, the model."""
    nights.upload(count)
    fired = nights.next_night()
    assert fired["state"] == "submitted", fired
    return fired["id"], nights.train()


def measured(nights: Nights, gaps: list[float]) -> dict[str, Any]:
    """The evaluation that waits is done; what it compares."""
    attempt = nights.claim()
    spec = attempt.claim.spec.evaluation
    assert spec is not None
    assert hand_over(attempt, rows(gaps)) == 204
    nights.sweep()
    return {"model": spec.model, "against": spec.against}


def firing(nights: Nights, firing_id: str) -> dict[str, Any]:
    return dict(nights.get(f"/v1/schedules/nightly/firings/{firing_id}"))


def test_the_first_result_has_to_beat_the_base_and_later_ones_the_champion(gated: Nights) -> None:
    first, one = trained(gated, 20)
    waiting = firing(gated, first)
    assert (waiting["state"], list(waiting["evaluations"])) == ("awaiting_verdict", [""])
    assert measured(gated, BETTER) == {"model": one, "against": "tiny-llama"}
    promoted = firing(gated, first)
    assert (promoted["state"], gated.alias(), promoted["verdict"]["by"]) == ("promoted", one, "gate")
    assert promoted["verdict"]["numbers"]["word"] == "better"

    second, two = trained(gated, 21)
    assert measured(gated, WORSE) == {"model": two, "against": one}
    refused = firing(gated, second)
    assert (refused["state"], gated.alias()) == ("refused", one)
    assert refused["reason"] == refused["verdict"]["numbers"]["text"]

    third, _ = trained(gated, 22)
    measured(gated, [0.0, 0.01, -0.01] * 10)
    assert (firing(gated, third)["state"], gated.alias()) == ("refused", one)


def test_rows_that_must_not_get_worse_refuse_a_result_that_is_better_elsewhere(gated: Nights) -> None:
    rail = {"rows": {"filename": HELD_OUT}, "guards": {"old questions": {"filename": RAIL}}}
    gated.replace(alias=PROD, promotion="on_verdict", gate=rail)
    fired, _ = trained(gated, 20)
    assert set(firing(gated, fired)["evaluations"]) == {"", "old questions"}
    measured(gated, BETTER)
    assert firing(gated, fired)["state"] == "awaiting_verdict"
    measured(gated, WORSE)
    refused = firing(gated, fired)
    assert (refused["state"], gated.alias()) == ("refused", None)
    assert "old questions" in refused["reason"]


def test_an_evaluation_that_crashes_is_no_verdict_and_promotes_nothing(gated: Nights) -> None:
    fired, _ = trained(gated, 20)
    failure = Failure(code="broken_chat_template", message="It loops.", category=Category.USER_ERROR)
    assert gated.claim().finish(Outcome.FAILED, failure=failure).status_code == 204
    gated.sweep()
    refused = firing(gated, fired)
    assert (refused["state"], refused["verdict"]["verdict"], gated.alias()) == ("refused", "inconclusive", None)
    assert "It loops." in refused["reason"]


def test_a_schedule_that_is_deleted_while_its_result_is_measured_promotes_nothing(gated: Nights) -> None:
    trained(gated, 20)
    gated.plane.request("DELETE", "/v1/schedules/nightly").raise_for_status()
    measured(gated, BETTER)
    ((state, reason),) = gated.plane.sql("SELECT state, reason FROM firings")
    assert (state, gated.alias()) == ("trained", None)
    assert "deleted" in reason


def test_a_schedule_that_promotes_no_more_lets_go_of_what_waits_for_a_verdict(gated: Nights) -> None:
    fired, _ = trained(gated, 20)
    gated.replace()
    measured(gated, BETTER)
    assert (firing(gated, fired)["state"], gated.alias()) == ("trained", None)
    assert gated.verdict(firing(gated, fired), "better").status_code == 409


def test_a_gate_of_two_rows_is_too_few_to_tell(gated: Nights) -> None:
    fired, _ = trained(gated, 20)
    measured(gated, [0.5, 0.4])
    refused = firing(gated, fired)
    assert (refused["state"], refused["verdict"]["numbers"]["word"]) == ("refused", "too few rows to tell")


def test_a_gate_without_its_rows_fails_the_firing_and_leaves_the_champion(gated: Nights) -> None:
    gated.replace(alias=PROD, promotion="on_verdict", gate={"rows": {"filename": "nobody.jsonl"}})
    fired, _ = trained(gated, 20)
    gated.sweep()
    failed = firing(gated, fired)
    assert (failed["state"], failed["code"], gated.alias()) == ("failed", "file_not_found", None)
    assert "nobody.jsonl" in failed["reason"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"promotion": "always", "gate": {"rows": {"filename": HELD_OUT}}}, "promotion"),
        ({"promotion": "on_verdict", "gate": {"rows": {}}}, "gate.rows"),
        ({"promotion": "on_verdict", "gate": {"rows": {"file": "file-1", "filename": "x"}}}, "gate.rows"),
        ({"promotion": "on_verdict", "gate": {}}, "gate.rows"),
        ({"promotion": "on_verdict", "gate": {**ROWS, "rule": {"decide_by": "score"}}}, "gate.rule.decide_by"),
        ({"promotion": "on_verdict", "gate": {**ROWS, "score": {"type": "regex", "pattern": "("}}}, PATTERN),
        ({"promotion": "on_verdict", "gate": {"rows": {"file": "file-1"}, "metric": "loss"}}, "gate.metric"),
    ],
)
def test_a_gate_that_makes_no_sense_is_refused_by_its_field(nights: Nights, fields: dict[str, Any], param: str) -> None:
    answer = nights.post("/v1/schedules", nights.body(alias=PROD, **fields))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
