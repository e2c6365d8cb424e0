"""A client that wants to hear what its answer waits for hears it; all others get what they always got."""

from typing import Any

import pytest

from tests.control_plane import ControlPlane
from tests.service.inference.conftest import HANG, StandInGateway, answer, events_of, line, refusal
from tests.service.test_access import is_error
from tests.waiting import eventually
from tunesmith.tuning.inference_messages import TELL_WAITING

pytestmark = pytest.mark.usefixtures("inference")
BASE, TURN = line(waiting="the base is loaded"), line(waiting="its turn")


def ask(plane: ControlPlane, **body: Any) -> Any:
    asked = {"model": "tiny-llama", "messages": [{"role": "user", "content": "hello"}], "stream": True, **body}
    with plane.http() as client:
        return client.post("/v1/chat/completions", json=asked, headers={TELL_WAITING: "yes"})


def test_what_is_waited_for_comes_as_comments_before_the_answer(
    control_plane: ControlPlane, gateway: StandInGateway
) -> None:
    gateway.script = lambda asked: [TURN, BASE, 0.2, *answer(asked)]
    told = ask(control_plane)
    assert told.text.startswith(": waiting: its turn\n\n: waiting: the base is loaded\n\n")
    assert events_of(told)[-1] == "[DONE]"
    assert events_of(told)[0]["model"] == "tiny-llama"


def test_a_refusal_after_waiting_is_the_last_event_and_one_at_once_has_its_status(
    control_plane: ControlPlane, gateway: StandInGateway
) -> None:
    gateway.script = lambda _: [BASE, 0.2, *refusal(503, "training_comes_first", "A job trains.")]
    (last,) = events_of(ask(control_plane))
    assert last["error"]["code"] == "training_comes_first"
    gateway.script = lambda _: [BASE, 0.2, *refusal(400, "context_length_exceeded")]
    (last,) = events_of(ask(control_plane))
    assert (last["error"]["code"], last["error"]["type"]) == ("context_length_exceeded", "invalid_request_error")
    gateway.script = lambda _: refusal(400, "context_length_exceeded")
    assert is_error(ask(control_plane), 400, "context_length_exceeded")
    assert is_error(ask(control_plane, model="none"), 404, "model_not_found")


def test_an_answer_in_one_piece_waits_as_ever(control_plane: ControlPlane, gateway: StandInGateway) -> None:
    gateway.script = lambda asked: [BASE, 0.2, *answer(asked)]
    assert ask(control_plane, stream=False).json()["model"] == "tiny-llama"


def test_who_leaves_while_waiting_frees_the_gateway(control_plane: ControlPlane, gateway: StandInGateway) -> None:
    gateway.script = lambda _: [BASE, HANG]
    asked = {"model": "tiny-llama", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    with (
        control_plane.http() as client,
        client.stream("POST", "/v1/chat/completions", json=asked, headers={TELL_WAITING: "yes"}) as begun,
    ):
        assert next(begun.iter_lines()) == ": waiting: the base is loaded"
    eventually(gateway.gone.is_set)
