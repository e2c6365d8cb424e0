"""The network between the service and its bucket: cut, swallowing one way, resetting, slow."""

import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.bucket import Bucket, bucket
from tests.chaos.proxy import Faults, Proxy
from tests.control_plane import ControlPlane, sha256
from tests.service.files.test_bucket import WEIGHTS_AS_ROWS, over
from tests.service.outages.conftest import ANSWER_SECONDS, Site
from tests.service.outages.test_database_network import BREAKING, answered_again, swallow_requests
from tests.stack.services import SERVICE_PROGRAM
from tests.waiting import eventually

SLOW_CHUNK_SECONDS = 0.5  # for 64 KiB: six megabytes take 48 s, longer than a silence may


@pytest.fixture(scope="module")
def server() -> Iterator[Bucket]:
    with bucket() as made:
        yield made


@pytest.fixture
def site(control_plane: ControlPlane, server: Bucket, request: pytest.FixtureRequest) -> Iterator[Site]:
    """The service over a bucket that it reaches through a proxy."""
    with Proxy(urlsplit(server.endpoint).port or 80) as network:
        behind = replace(server, endpoint=f"http://127.0.0.1:{network.port}")
        with over(control_plane, behind, folder=request.node.name.partition("[")[0]) as plane:
            yield Site(plane, network)


@pytest.mark.mostly_slow(rows=2)
@pytest.mark.parametrize("breaking", BREAKING, ids=lambda one: one.__name__)
def test_a_broken_network_to_the_bucket_is_told_within_a_bound_and_nothing_half_written_is_registered(
    site: Site, breaking: Callable[[Proxy], None]
) -> None:
    plane = site.plane
    file_id = plane.upload()
    attempt = plane.claimed(training_file=file_id)
    weights = b"weights"
    form = {"data": {"purpose": "fine-tune"}, "files": {"file": ("rows.jsonl", b'{"text": "x"}\n')}}
    breaking(site.network)
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(plane.request, "POST", "/v1/files", **form),
            pool.submit(plane.request, "GET", f"/v1/files/{file_id}/content"),
            pool.submit(
                plane.request,
                "PUT",
                attempt.path(f"blobs/{sha256(weights)}"),
                key=attempt.claim.lease_token,
                content=weights,
            ),
        ]
        readiness = plane.request("GET", "/readyz")
        assert (readiness.status_code, readiness.json()["checks"]["database"]) == (503, "ok")
        assert readiness.json()["checks"]["store"] != "ok"
        assert plane.request("GET", "/healthz").status_code == 200
        assert attempt.heartbeat().status_code == 200
        for one in asked:
            answer = one.result(ANSWER_SECONDS)
            assert (answer.status_code, answer.headers.get("retry-after")) == (503, "1"), answer.text
            assert answer.json()["error"]["code"] == "object_store_unavailable"
    assert plane.sql("SELECT 1 FROM blobs WHERE is_stored AND sha256 = %s", sha256(weights)) == []
    assert plane.sql("SELECT count(*) FROM files") == [(1,)]

    site.heal()
    answered_again(plane, f"/v1/files/{file_id}/content", within_seconds=10)
    eventually(lambda: plane.request("GET", "/readyz").status_code == 200, seconds=10, what="readiness")
    plane.upload(form["files"]["file"][1])
    assert attempt.put(weights).sha256 == sha256(weights)


@pytest.mark.slow
def test_a_download_from_the_bucket_may_take_longer_than_a_silence(site: Site) -> None:
    plane = site.plane
    file_id = plane.upload(WEIGHTS_AS_ROWS)
    site.network.faults = Faults(delay_seconds=SLOW_CHUNK_SECONDS)
    assert plane.request("GET", f"/v1/files/{file_id}/content").content == WEIGHTS_AS_ROWS


def test_a_bucket_that_swallows_everything_holds_up_no_lease(site: Site, tmp_path: Path) -> None:
    plane = site.plane
    attempt = plane.claimed()
    unneeded = attempt.put(b"nobody's").sha256
    plane.sql("UPDATE blobs SET kept_until = now() - interval '1 minute' WHERE sha256 = %s", unneeded)
    swallow_requests(site.network)
    with keeper_process(plane, log=tmp_path / "keeper.log"):
        eventually(lambda: plane.sql("SELECT 1 FROM blobs WHERE NOT is_stored"), what="bytes on their way out")
        plane.expire_leases()
        eventually(
            lambda: plane.sql("SELECT 1 FROM attempts WHERE outcome = 'lost'"), seconds=10, what="the end of a lease"
        )
        assert plane.sql("SELECT 1 FROM blobs WHERE NOT is_stored") != []


@contextmanager
def keeper_process(plane: ControlPlane, *, log: Path) -> Iterator[None]:
    environment = {
        **os.environ,
        "DATABASE_URL": plane.settings.database_url,
        "TUNESMITH_STORE": plane.settings.store,
        "TUNESMITH_KEEPER_SECONDS": "0.2",
    }
    with log.open("wb") as output:
        process = subprocess.Popen([SERVICE_PROGRAM, "keeper"], env=environment, stderr=output)
    try:
        yield
    finally:
        process.kill()  # it would wait for the bucket
        process.wait()
