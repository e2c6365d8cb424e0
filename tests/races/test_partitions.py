"""A worker whose network fails one way or both: what was done unheard is not done twice."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import structlog

from tests.chaos.proxy import Proxy
from tests.control_plane import ControlPlane
from tests.machines import CPU
from tests.waiting import eventually
from tunesmith.tuning.messages import ClaimRequest, FinishReport
from tunesmith.tuning.state import Outcome
from tunesmith.worker.attempt.follower import Follower
from tunesmith.worker.attempt.progress import Progress
from tunesmith.worker.attempt.stop_requests import StopRequests
from tunesmith.worker.run_directory import RunDirectory, append_line
from tunesmith.worker.transport.control import HttpAttemptControl, HttpControlPlane
from tunesmith.worker.transport.retry import Unavailable
from tunesmith.worker.transport.wire import service_client

TOKEN = "lease-" + "x" * 43


def test_a_claim_and_a_last_word_whose_answers_are_lost_are_heard_once(control_plane: ControlPlane) -> None:
    plane = control_plane
    worker = plane.worker()
    job_id = plane.create_job()["id"]
    with Proxy(urlsplit(plane.url).port or 80) as proxy:
        control = HttpControlPlane(
            url=f"http://127.0.0.1:{proxy.port}", worker_key=plane.keys["worker"], outage_patience_seconds=30
        )
        request = ClaimRequest(
            worker_id=worker.id, incarnation=worker.incarnation, hardware=CPU, claim_id="one", lease_token=TOKEN
        )
        proxy.faults.swallow_answers = True
        with ThreadPoolExecutor(1) as pool:
            claiming = pool.submit(control.claim, request)
            eventually(lambda: plane.sql("SELECT count(*) FROM attempts") == [(1,)], what="the claim that went unheard")
            proxy.faults.swallow_answers = False
            proxy.cut()
            claim = claiming.result()
        assert claim is not None
        assert plane.sql("SELECT count(*) FROM attempts") == [(1,)]

        attempt = control.attempt(claim)
        proxy.reset()
        proxy.faults.delay_seconds = 0.2
        attempt.patiently().finish(FinishReport(outcome=Outcome.CANCELLED))
        attempt.patiently().finish(FinishReport(outcome=Outcome.CANCELLED))
        attempt.close()
        control.close()
    assert plane.sql("SELECT outcome FROM attempts WHERE job_id = %s", job_id) == [("cancelled",)]


def test_an_event_whose_answer_is_lost_is_told_again_it_alone_and_in_its_place(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    plane = control_plane
    held = plane.claimed()
    run = RunDirectory(tmp_path)
    with Proxy(urlsplit(plane.url).port or 80) as proxy:
        client = service_client(f"http://127.0.0.1:{proxy.port}", held.claim.lease_token, timeout=30)
        control = HttpAttemptControl(
            client=client, blob_client=client, attempt_id=held.claim.attempt_id, outage_patience_seconds=30
        )
        follower = Follower(
            run,
            control,
            progress=Progress(total_steps=1),
            directives=StopRequests(drain_deadline=lambda: None),
            log=structlog.get_logger(),
        )
        append_line(run.events, {"message": "first"})
        follower.ship()
        append_line(run.events, {"message": "second"})
        proxy.faults.swallow_answers = True
        with ThreadPoolExecutor(1) as pool:
            shipping = pool.submit(follower.ship)
            eventually(lambda: "second" in plane.messages(held.job_id), what="the event that was told unheard")
            proxy.faults.swallow_answers = False
            proxy.cut()
            with pytest.raises(Unavailable):
                shipping.result()
        append_line(run.events, {"message": "third"})
        follower.ship()
        control.close()
    assert plane.messages(held.job_id)[-4:] == ["first", "second", "second", "third"]
    numbers = [seq for (seq,) in plane.sql("SELECT seq FROM events WHERE job_id = %s ORDER BY seq", held.job_id)]
    assert numbers == list(range(1, len(numbers) + 1))
