"""The installed `openai` client drives the list of cases that `make conformance` plays with every version."""

from benchmarks.conformance.cases import AS_OPENAI, Service, outcomes
from tests.control_plane import ControlPlane


def test_every_case_goes_as_with_openai(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    attempt.metrics([{"step": 10, "train_loss": 1.25, "train_mean_token_accuracy": 0.5, "valid_loss": 1.5}])
    attempt.checkpoint(10)
    attempt.succeed()
    with control_plane.openai("admin") as client:
        found = outcomes(Service(client, f"{control_plane.url}/v1", "tiny-llama", attempt.job_id))
    assert {case: outcome for case, outcome in found.items() if outcome != AS_OPENAI} == {}
