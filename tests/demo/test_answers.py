"""The demo's last answers come through the service: each model is asked by its name, with the client of its users."""

import pytest

from tests.control_plane import ControlPlane, control_plane, limited, live_control_plane, plane, sha256
from tests.service.inference.conftest import InferenceSide, StandInGateway, gateway, inference, refusal
from tunesmith.cli.client import ServiceError
from tunesmith.local.demo.compare import ask_both
from tunesmith.local.demo.dataset import Example
from tunesmith.tuning.state import Outcome

__all__ = ["control_plane", "gateway", "inference", "limited", "live_control_plane", "plane"]

EXAMPLES = [Example(module="math", name=name, source=f"def {name}():", answer="Do it.") for name in ("one", "two")]


def test_base_and_tuned_model_answer_the_same_prompts_each_with_its_own_weights(
    control_plane: ControlPlane, gateway: StandInGateway, inference: InferenceSide
) -> None:
    attempt = control_plane.claimed()
    assert attempt.artifact(weights=b"tuned").status_code == 204
    assert attempt.finish(Outcome.SUCCEEDED).status_code == 204
    tuned = control_plane.job(attempt.job_id)["fine_tuned_model"]
    with control_plane.openai() as client:
        found = ask_both(client, EXAMPLES, base="tiny-llama", tuned=tuned)
    assert [one.example for one in found] == EXAMPLES
    base = sha256(b"tiny-llama")[:8]
    assert {one.base for one in found} == {base}
    assert all(one.tuned.startswith(f"{base} + ") for one in found)
    asked = sorted(one["body"]["messages"][-1]["content"] for one in gateway.asked)
    assert asked == ["def one():", "def one():", "def two():", "def two():"]
    assert {one["body"]["temperature"] for one in gateway.asked} == {0}


def test_a_model_that_does_not_answer_ends_the_demo_with_the_services_reason(
    control_plane: ControlPlane, gateway: StandInGateway, inference: InferenceSide
) -> None:
    gateway.script = lambda _: refusal(503, "engine_failed", "The base cannot be loaded.")
    with control_plane.openai() as client, pytest.raises(ServiceError, match=r"The base cannot be loaded") as refused:
        ask_both(client, EXAMPLES, base="tiny-llama", tuned="tiny-llama")
    assert "inference.log" in str(refused.value.hint)
