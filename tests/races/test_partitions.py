"""A worker whose network fails one way or both: what was done unheard is not done twice."""

from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from tests.chaos.proxy import Proxy
from tests.control_plane import ControlPlane
from tests.machines import CPU
from tests.waiting import eventually
from tunesmith.tuning.messages import ClaimRequest, FinishReport
from tunesmith.tuning.state import Outcome
from tunesmith.worker.transport.control import HttpControlPlane

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
