"""The network between the service and its database: cut, swallowing one way or both, resetting, slow."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Event, Thread

import httpx2
import pytest

from tests.chaos.proxy import Faults, Proxy
from tests.control_plane import AttemptSide, ControlPlane
from tests.service.outages.conftest import ANSWER_SECONDS, LEASE_SECONDS, Site
from tests.waiting import eventually

JOBS = "/v1/fine_tuning/jobs"


def cut(network: Proxy) -> None:
    network.faults = Faults(refuse=True)
    network.cut()


def reset(network: Proxy) -> None:
    network.faults = Faults(refuse=True)
    network.reset()


def swallow_requests(network: Proxy) -> None:
    network.faults = Faults(swallow_requests=True)


def swallow_answers(network: Proxy) -> None:
    network.faults = Faults(swallow_answers=True)


BREAKING = [swallow_requests, cut, swallow_answers, reset]


@pytest.mark.mostly_slow(rows=3)
@pytest.mark.parametrize("breaking", BREAKING, ids=lambda one: one.__name__)
def test_a_broken_network_is_told_within_a_bound_costs_no_run_and_is_forgotten_when_it_is_mended(
    site: Site, keeper_lives: Callable[[], None], breaking: Callable[[Proxy], None]
) -> None:
    plane = site.plane
    attempt = plane.claimed()
    body = {"model": "tiny-llama", "training_file": plane.upload()}
    submit = {"json": body, "headers": {"idempotency-key": "one"}}
    with ThreadPoolExecutor(16) as pool, beating(attempt):
        breaking(site.network)
        broken_at = time.monotonic()
        asked = [pool.submit(plane.request, "POST", JOBS, **submit) for _ in range(3)]
        asked += [pool.submit(plane.request, "GET", path) for path in ("/v1/models", JOBS, "/v1/files")]
        for answer in answers(asked):
            assert (answer.status_code, answer.headers.get("retry-after")) == (503, "1"), answer.text
            assert answer.json()["error"]["message"].startswith("The database")
        assert plane.request("GET", "/healthz").elapsed.total_seconds() < 1
        readiness = plane.request("GET", "/readyz")
        assert (readiness.status_code, readiness.json()["checks"]["store"]) == (503, "ok")
        assert readiness.json()["checks"]["database"] != "ok"
        eventually(lambda: time.monotonic() - broken_at > 1.2 * LEASE_SECONDS, what="a lease without a beat")

        site.heal()
        first = answered_again(plane, f"{JOBS}/{attempt.job_id}", within_seconds=10)
        assert first.json()["status"] == "running"
        job_id = plane.request("POST", JOBS, **submit).json()["id"]
        assert plane.request("POST", JOBS, **submit).json()["id"] == job_id
        assert plane.sql("SELECT count(*) FROM jobs WHERE id <> %s", attempt.job_id) == [(1,)]
        keeper_lives()
        assert plane.sql("SELECT outcome FROM attempts") == [(None,)]
        assert attempt.heartbeat().status_code == 200


def test_an_event_stream_and_a_long_poll_hear_what_happens_after_the_network_is_mended(site: Site) -> None:
    plane = site.plane
    attempt = plane.claimed()
    heard: list[str] = []
    reader = Thread(target=follow, args=(plane, attempt.job_id, heard), daemon=True)
    reader.start()
    eventually(lambda: heard, what="the beginning of the history")
    seen = plane.request("GET", f"{JOBS}/{attempt.job_id}").headers["etag"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next_change, plane, f"{JOBS}/{attempt.job_id}", seen)
        site.network.faults = Faults(swallow_answers=True)
        refused = plane.request("GET", JOBS)
        assert refused.status_code == 503
        site.heal()
        answered_again(plane, JOBS, within_seconds=10)
        plane.request("POST", f"{JOBS}/{attempt.job_id}/cancel").raise_for_status()
        assert waiting.result(ANSWER_SECONDS).json()["tunesmith"]["cancel_requested"]
    attempt.post("finish", {"outcome": "cancelled"})
    reader.join(60)
    assert not reader.is_alive()
    listed = plane.request("GET", f"{JOBS}/{attempt.job_id}/events?order=asc&limit=100").json()["data"]
    assert heard == [event["id"] for event in listed]


def test_a_slow_network_slows_requests_and_holds_none_for_ever(site: Site) -> None:
    plane = site.plane
    plane.request("GET", "/v1/models").raise_for_status()
    site.network.faults = Faults(delay_seconds=2.0)  # to the server and back: longer than a statement may take
    with ThreadPoolExecutor(8) as pool:
        for answer in answers([pool.submit(plane.request, "GET", path) for path in ("/v1/models", JOBS)]):
            assert answer.status_code == 503
    site.heal()
    answered_again(plane, "/v1/models", within_seconds=10)


@contextmanager
def beating(attempt: AttemptSide) -> Iterator[None]:
    """A worker that goes on with its heartbeats, whatever it is answered."""
    stop = Event()

    def beat() -> None:
        while not stop.wait(0.5):
            attempt.heartbeat()

    thread = Thread(target=beat)
    thread.start()
    yield
    stop.set()
    thread.join(ANSWER_SECONDS)


def next_change(plane: ControlPlane, path: str, seen: str) -> httpx2.Response:
    """By long polls, as a client that tries again when it is told to."""
    while True:
        answer = plane.request("GET", f"{path}?wait=20", headers={"if-none-match": seen})
        if answer.status_code == 200:
            return answer
        assert answer.status_code in (304, 503), answer.text


def answers(asked: list["Future[httpx2.Response]"]) -> list[httpx2.Response]:
    """Each within the bound; the client's own patience is longer by nothing."""
    return [one.result(ANSWER_SECONDS) for one in asked]


def answered_again(plane: ControlPlane, path: str, *, within_seconds: float) -> httpx2.Response:
    def ask() -> httpx2.Response | None:
        answer = plane.request("GET", path)
        return answer if answer.is_success else None

    return eventually(ask, seconds=within_seconds, what="an answer")


def follow(plane: ControlPlane, job_id: str, heard: list[str]) -> None:
    """Read a job's history to its end, as a client that comes back where it was."""
    path = f"{JOBS}/{job_id}/events?stream=true"
    while True:
        headers = {"last-event-id": heard[-1]} if heard else {}
        with (
            suppress(httpx2.TransportError),
            plane.http() as client,
            client.stream("GET", path, headers=headers) as reply,
        ):
            if reply.status_code == 204:
                return
            for line in reply.iter_lines():
                if line.startswith("id: "):
                    heard += [line.removeprefix("id: ")]
