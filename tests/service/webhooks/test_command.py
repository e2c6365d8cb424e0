"""`tunesmith webhooks` against a live API."""

import os
from collections.abc import Iterator

import pytest

from tests.command import Run, in_process
from tests.control_plane import ControlPlane
from tests.service.webhooks.receiver import HERE, Receiver, answer, cancelled, receiving, send
from tunesmith.service.webhooks.sending import Sender


@pytest.fixture
def run(control_plane: ControlPlane) -> Run:
    usual = {"PATH": os.environ["PATH"]}
    return in_process({**usual, "TUNESMITH_URL": control_plane.url, "TUNESMITH_API_KEY": control_plane.keys["member"]})


@pytest.fixture
def receiver(live_control_plane: ControlPlane) -> Iterator[Receiver]:
    """One that the API may send to."""
    state = live_control_plane.app.state
    usual, state.webhook_sender = state.webhook_sender, Sender(HERE, timeout_seconds=5)
    with receiving() as receiver:
        yield receiver
    state.webhook_sender = usual


def test_an_endpoint_from_its_creation_to_its_end(control_plane: ControlPlane, run: Run, receiver: Receiver) -> None:
    made = run("webhooks", "create", receiver.url, "--name", "ci", "--event", "fine_tuning.job.cancelled")
    assert made.returncode == 0, made.stderr
    endpoint_id = made.stdout.split()[0]
    secret = made.stdout.splitlines()[-1].split()[1]
    assert secret.startswith("whsec_")
    shown = run("webhooks", "get", endpoint_id).stdout
    assert secret not in shown + run("webhooks", "ls").stdout
    assert f"whsec_...{secret[-4:]}" in shown
    assert run("webhooks", "test", endpoint_id).stdout == "fine_tuning.job.succeeded  answered 200\n"
    receiver.behaviour = answer(500)
    assert run("webhooks", "test", endpoint_id).returncode == 6

    job_id = cancelled(control_plane)
    send(control_plane)
    listed = run("webhooks", "deliveries", endpoint_id).stdout.splitlines()[1].split()
    assert listed[1:4] == ["waiting", "fine_tuning.job.cancelled", job_id]
    assert "failing" in run("webhooks", "ls").stdout
    assert run("webhooks", "redeliver", endpoint_id, listed[0]).stdout == f"{listed[0]}  waiting\n"
    assert run("webhooks", "disable", endpoint_id).stdout == f"{endpoint_id}  disabled\n"
    assert "Disabled by a member" in run("webhooks", "get", endpoint_id).stdout
    assert run("webhooks", "redeliver", endpoint_id, listed[0]).returncode == 7
    assert run("webhooks", "enable", endpoint_id).stdout == f"{endpoint_id}  enabled\n"
    rotated = run("webhooks", "rotate-secret", endpoint_id, "--keep-old").stdout.splitlines()[-1].split()[1]
    assert rotated != secret
    assert run("webhooks", "rm", endpoint_id).returncode == 0
    assert run("webhooks", "get", endpoint_id).returncode == 10


def test_a_url_that_is_refused_names_the_field_and_the_next_step(run: Run, control_plane: ControlPlane) -> None:
    refused = run("webhooks", "create", "http://127.0.0.1/hooks")
    assert refused.returncode == 7
    assert "field: url" in refused.stderr
    assert "TUNESMITH_WEBHOOK_NETWORKS" in refused.stderr
