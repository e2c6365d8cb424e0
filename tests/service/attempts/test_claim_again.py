"""A claim whose answer was lost costs nothing: asked again it gives the same attempt."""

from tests.control_plane import ControlPlane
from tunesmith.tuning.state import Outcome


def test_the_same_claim_gives_the_same_attempt_with_everything_but_the_token(control_plane: ControlPlane) -> None:
    worker = control_plane.worker()
    file = control_plane.upload()
    for _ in range(2):
        control_plane.create_job(training_file=file)
    lost, heard = worker.claim(claim_id="one"), worker.claim(claim_id="one")
    assert lost is not None
    assert heard is not None
    assert heard.claim.model_copy(update={"lease_token": lost.claim.lease_token}) == lost.claim
    assert control_plane.sql("SELECT count(*) FROM attempts") == [(1,)]
    assert lost.heartbeat().status_code == 401
    heard.succeed()
    assert control_plane.job(heard.job_id)["tunesmith"]["attempts"] == 1


def test_asking_again_renews_the_lease(control_plane: ControlPlane) -> None:
    worker = control_plane.worker()
    control_plane.create_job()
    worker.claim(claim_id="one")
    control_plane.expire_leases()
    worker.claim(claim_id="one")
    assert control_plane.sql("SELECT lease_expires_at > now() FROM attempts") == [(True,)]


def test_another_claim_gives_another_job(control_plane: ControlPlane) -> None:
    worker = control_plane.worker()
    file = control_plane.upload()
    made = {control_plane.create_job(training_file=file)["id"] for _ in range(2)}
    attempts = [worker.claim(claim_id=name) for name in ("one", "two")]
    assert {attempt.job_id for attempt in attempts if attempt} == made


def test_a_claim_whose_attempt_has_ended_gives_nothing_more(control_plane: ControlPlane) -> None:
    worker = control_plane.worker()
    control_plane.create_job()
    attempt = worker.claim(claim_id="one")
    assert attempt is not None
    attempt.finish(Outcome.PREEMPTED)
    assert worker.claim(claim_id="one") is None
    assert worker.claim(claim_id="two") is not None


def test_a_name_of_a_claim_is_its_workers_own(control_plane: ControlPlane) -> None:
    file = control_plane.upload()
    made = {control_plane.create_job(training_file=file)["id"] for _ in range(2)}
    attempts = [control_plane.worker(name).claim(claim_id="one") for name in ("w1", "w2")]
    assert {attempt.job_id for attempt in attempts if attempt} == made


def test_a_late_copy_of_a_claim_takes_nothing_from_the_attempt_that_its_repeat_was_given(
    control_plane: ControlPlane,
) -> None:
    worker = control_plane.worker()
    control_plane.create_job()
    token = "lease-" + "x" * 43
    heard = worker.claim(claim_id="one", lease_token=token)
    assert heard is not None
    assert heard.claim.lease_token == token
    worker.claim(claim_id="one", lease_token=token)  # sent first, and handled only now
    heard.succeed()
    assert control_plane.job(heard.job_id)["status"] == "succeeded"


def test_a_token_that_could_be_guessed_is_no_token(control_plane: ControlPlane) -> None:
    worker = control_plane.worker()
    body = {"worker_id": worker.id, "incarnation": worker.incarnation, "lease_token": "lease-x"}
    request = body | {"hardware": worker.hardware.model_dump(mode="json")}
    response = control_plane.request("POST", "/internal/claims", key="worker", json=request)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "lease_token")
