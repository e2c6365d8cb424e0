"""Promotions at the same moment: one wins, and the others are told what is there now."""

import threading
from collections import Counter

from tests.control_plane import ControlPlane
from tests.waiting import PATIENCE_SECONDS

PATH = "/v1/aliases/ft:support@prod"


def together(*bodies: dict[str, object], plane: ControlPlane) -> list[tuple[int, str]]:
    """Send them at once; status and message or model of each answer."""
    answers: dict[int, tuple[int, str]] = {}
    barrier = threading.Barrier(len(bodies))

    def send(place: int) -> None:
        with plane.http() as client:
            barrier.wait(PATIENCE_SECONDS)
            answer = client.put(PATH, json=bodies[place])
        told = answer.json()
        answers[place] = answer.status_code, told["model"] if answer.is_success else told["error"]["message"]

    threads = [threading.Thread(target=send, args=(place,)) for place in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    return [answers[place] for place in range(len(bodies))]


def test_of_many_promotions_at_once_one_wins_and_the_others_learn_which(control_plane: ControlPlane) -> None:
    models = [control_plane.add_model(f"candidate-{number}") for number in range(8)]
    for expected in (None, "tiny-llama"):
        if expected:
            control_plane.request("PUT", PATH, json={"model": expected}).raise_for_status()
        answers = together(*({"model": model, "expected": expected} for model in models), plane=control_plane)
        assert Counter(status for status, _ in answers) == {200: 1, 409: 7}
        (winner,) = (told for status, told in answers if status == 200)
        assert all(winner in told for status, told in answers if status == 409)
        assert control_plane.request("GET", PATH).json()["model"] == winner


def test_changes_at_once_without_expectation_leave_a_history_without_gaps(control_plane: ControlPlane) -> None:
    models = [control_plane.add_model(f"candidate-{number}") for number in range(6)]
    answers = together(*({"model": model} for model in models), plane=control_plane)
    assert {status for status, _ in answers} == {200}
    changes = control_plane.request("GET", f"{PATH}/history").json()["data"][::-1]
    assert [one["number"] for one in changes] == list(range(1, 7))
    assert [one["previous_model"] for one in changes] == [None, *(one["model"] for one in changes[:-1])]
