"""How long the largest legal request of each kind keeps the event loop from everything else."""

import asyncio
import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2
import pytest
import uvicorn

from tests.control_plane import AttemptSide, ControlPlane, chat_rows
from tests.waiting import eventually
from tunesmith.service.app import create_app
from tunesmith.service.settings import Settings

LONGEST_SECONDS = 0.1  # the goal is half of it; processor time on a busy machine varies by as much
JOBS = "/v1/fine_tuning/jobs"
MIB = 1024**2
POINTS, MOST_POINTS = 2_700, 100_000
METADATA = {f"key-{number}": "v" * 512 for number in range(16)}


@dataclass
class Loop:
    """Processor time of the thread of the event loop between two of its turns: nobody else's time counts."""

    longest_seconds: float = 0.0

    async def watch(self) -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.001)
            self.longest_seconds = max(self.longest_seconds, time.thread_time() - before)


@contextmanager
def watched(settings: Settings) -> Iterator[tuple[str, Loop]]:
    """The application at an address of its own, and its event loop."""
    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=0, log_config=None, access_log=False))
    loop = Loop()

    async def serve() -> None:
        watch = asyncio.create_task(loop.watch())
        await server.serve()
        watch.cancel()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    eventually(lambda: server.started, pause_seconds=0.01, what="a server")
    gc.freeze()  # as `service.serve` does
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", loop
    finally:
        gc.unfreeze()
        server.should_exit = True
        thread.join(10)


def requests_of(plane: ControlPlane, attempt: AttemptSide) -> dict[str, Callable[[], httpx2.Response]]:
    file_id = plane.upload()
    job = {"model": "tiny-llama", "training_file": file_id, "metadata": METADATA}
    points = [{"step": step, **{f"metric_{name}": 0.123456789 for name in range(20)}} for step in range(1, POINTS)]
    rows = chat_rows(200_000)[: 20 * MIB]
    rows = rows[: rows.rindex(b"\n") + 1]
    labels = {f"metadata[{name}]": value for name, value in METADATA.items()}
    (described,) = plane.sql("SELECT files, config FROM models")
    model = {"name": "large", "files": described[0], "config": {**described[1], "more": ["x" * 1000] * 1_800}}
    history = f"{JOBS}/{attempt.job_id}"

    def together() -> httpx2.Response:
        with ThreadPoolExecutor(32) as pool:
            return list(pool.map(lambda _: plane.request("POST", JOBS, json=job), range(64)))[-1]

    def upload() -> httpx2.Response:
        form = {"data": {"purpose": "fine-tune"}, "files": {"file": ("rows.jsonl", rows)}}
        return plane.request("POST", "/v1/files", **form)

    return {
        "a job": lambda: plane.request("POST", JOBS, json=job),
        "64 jobs together": together,
        "a plan": lambda: plane.request("POST", f"{JOBS[:-5]}/plans", json=job),
        "100 jobs": lambda: plane.request("GET", JOBS, params={"limit": 100}),
        "jobs by 16 labels": lambda: plane.request("GET", JOBS, params={"limit": 100, **labels}),
        "1,000 events": lambda: plane.request("GET", f"{history}/events", params={"limit": 1000}),
        "metrics of a long job": lambda: plane.request("GET", f"{history}/metrics"),
        "attempts": lambda: plane.request("GET", f"{history}/attempts"),
        "a metric batch": lambda: attempt.metrics(points, start=10**9),
        "a file of 20 MB": upload,
        "a model's description": lambda: plane.request("POST", "/v1/models", key="admin", json=model),
        "the OpenAPI document": lambda: plane.request("GET", "/openapi.json"),
        "figures for Prometheus": lambda: plane.request("GET", "/metrics", key="admin"),
    }


def assert_taken(name: str, answer: httpx2.Response) -> None:
    refused_last = answer.status_code == 400 and answer.json()["error"]["code"] == "broken_model"  # a description
    assert answer.is_success or refused_last, f"{name}: {answer.text:.300}"


def fill(plane: ControlPlane, attempt: AttemptSide) -> None:
    for first in range(0, MOST_POINTS, 5_000):
        points = [{"step": step, "loss": 0.123456789, "tokens": step} for step in range(first, first + 5_000)]
        assert attempt.metrics(points, start=first).status_code == 204
    plane.sql(
        "INSERT INTO events (job_id, seq, type, level, message) SELECT id, n, 'message', 'info', repeat('m', 500)"
        " FROM jobs, generate_series(1000001, 1001000) n"
    )


@pytest.mark.slow
def test_no_legal_request_holds_up_others_for_long(control_plane: ControlPlane, settings: Settings) -> None:
    attempt = control_plane.claimed()
    fill(control_plane, attempt)
    found: dict[str, float] = {}
    watching = watched(settings.model_copy(update={"store": control_plane.settings.store}))
    with watching as (url, loop), control_plane.served_at(url) as plane:
        requests = requests_of(plane, AttemptSide(plane, attempt.claim))
        for _ in range(2):  # what is done once in the life of a process is no request's
            for name, ask in requests.items():
                loop.longest_seconds = 0.0
                assert_taken(name, ask())
                found[name] = loop.longest_seconds
    print(json.dumps({name: round(seconds * 1000, 1) for name, seconds in found.items()}, indent=1))
    assert {name: seconds for name, seconds in found.items() if seconds > LONGEST_SECONDS} == {}
