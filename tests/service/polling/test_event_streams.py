"""A job's history as server-sent events: every event once and in order, whatever happens to the connection."""

import asyncio
import json
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import httpx2
import pytest
import uvicorn

from tests.control_plane import AttemptSide, ControlPlane
from tests.waiting import eventually
from tunesmith.service.app import create_app
from tunesmith.service.database.transactions import Database
from tunesmith.service.jobs.polling.event_stream import EventStreams, StreamTerms
from tunesmith.service.jobs.polling.watcher import JobWatcher
from tunesmith.service.keys.cache import KEPT_SECONDS
from tunesmith.service.web.connections.server import Server
from tunesmith.tuning.state import Outcome


def path(job_id: str) -> str:
    return f"/v1/fine_tuning/jobs/{job_id}/events"


def told(lines: Iterator[str]) -> Iterator[tuple[str, str, str]]:
    """Each message as (name, id, data)."""
    found = {"event": "message", "id": "", "data": ""}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            found[name] = value
        else:
            if found["data"]:
                yield found["event"], found["id"], found["data"]
            found = {"event": "message", "id": "", "data": ""}


def cancelled(plane: ControlPlane, attempt: AttemptSide) -> None:
    plane.request("POST", f"/v1/fine_tuning/jobs/{attempt.job_id}/cancel")
    assert attempt.finish(Outcome.CANCELLED).status_code == 204
    assert plane.job(attempt.job_id)["status"] == "cancelled"


def stored(plane: ControlPlane, job_id: str) -> list[tuple[int, str]]:
    return plane.sql("SELECT seq, message FROM events WHERE job_id = %s ORDER BY seq", job_id)


def test_a_stream_tells_the_history_as_the_list_does_and_ends_with_the_job(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    cancelled(control_plane, attempt)
    url = path(attempt.job_id)
    with control_plane.http() as client, client.stream("GET", url, headers={"accept": "text/event-stream"}) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        *events, end = islice(told(reply.iter_lines()), 100)  # one that tells the same again has no end
    listed = control_plane.request("GET", f"{url}?order=asc&limit=1000").json()["data"]
    assert [json.loads(data) for _name, _id, data in events] == listed
    assert [event_id for _name, event_id, _data in events] == [event["id"] for event in listed]
    assert (end[0], json.loads(end[2])) == ("end", {"status": control_plane.job(attempt.job_id)["status"]})
    again = control_plane.request("GET", f"{url}?stream=true", headers={"last-event-id": listed[-1]["id"]})
    assert again.status_code == 204


def test_nothing_is_missed_or_told_twice_over_cut_connections_while_many_write(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    chance = random.Random(7)
    seen: list[str] = []
    cuts = 0
    with ThreadPoolExecutor(4) as pool, control_plane.http() as client:
        writers = [pool.submit(_write, control_plane, attempt, number) for number in range(3)]
        ended = pool.submit(lambda: [writer.result() for writer in writers] and cancelled(control_plane, attempt))
        is_over = False
        while not is_over:
            headers = {"last-event-id": seen[-1]} if seen else {}
            with client.stream("GET", f"{path(attempt.job_id)}?stream=true", headers=headers) as reply:
                is_over = reply.status_code == 204
                patience = chance.randint(1, 9)
                for name, event_id, _data in told(reply.iter_lines()):
                    if is_over := name == "end":
                        break
                    seen.append(event_id)
                    patience -= 1
                    if not patience:
                        cuts += 1
                        break
        ended.result()
    rows = stored(control_plane, attempt.job_id)
    assert [int(event_id.rpartition("-")[2]) for event_id in seen] == [seq for seq, _message in rows]
    assert len(rows) > 60
    eventually(lambda: control_plane.app.state.watcher.waiting == 0, what="the places of those who were cut off")
    assert cuts > 5


def test_a_stream_ends_with_its_key(control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = control_plane.claimed()
    with control_plane.http() as client, client.stream("GET", f"{path(attempt.job_id)}?stream=true") as reply:
        messages = told(reply.iter_lines())
        next(messages)
        control_plane.sql("UPDATE api_keys SET revoked_at = now() WHERE id = 'key-member'")
        monkeypatch.setattr(control_plane.app.state.keys, "_clock", lambda: time.monotonic() + KEPT_SECONDS)
        attempt.post("events", {"message": "a secret of tomorrow"})
        assert not [data for _name, _id, data in messages if "tomorrow" in data]
    eventually(lambda: control_plane.app.state.watcher.waiting == 0, what="its place is free again")


def _write(plane: ControlPlane, attempt: AttemptSide, number: int) -> None:
    """Through the API, and past it as another process would."""
    for turn in range(10):
        assert attempt.post("events", {"message": f"{number} {turn}"}).status_code == 204
        plane.sql(
            "WITH job AS (UPDATE jobs SET event_seq = event_seq + 1 WHERE id = %s RETURNING id, event_seq) "
            "INSERT INTO events (job_id, seq, type, level, message) "
            "SELECT id, event_seq, 'message', 'info', 'x' FROM job",
            attempt.job_id,
        )


def test_streams_of_one_job_and_of_many_hear_the_same(control_plane: ControlPlane) -> None:
    job_ids = [control_plane.create_job()["id"] for _ in range(3)]
    watcher = control_plane.app.state.watcher
    with ThreadPoolExecutor(12) as pool:
        clients = [pool.submit(_read_to_the_end, control_plane, job_ids[number % 3]) for number in range(12)]
        eventually(lambda: watcher.waiting == 12, what="all streams are open")
        for job_id in job_ids:
            control_plane.request("POST", f"/v1/fine_tuning/jobs/{job_id}/pause")
            control_plane.request("POST", f"/v1/fine_tuning/jobs/{job_id}/cancel")
        for number, client in enumerate(clients):
            assert client.result() == [message for _seq, message in stored(control_plane, job_ids[number % 3])]
    eventually(lambda: watcher.waiting == 0, what="all places are free again")


def _read_to_the_end(plane: ControlPlane, job_id: str) -> list[str]:
    with plane.http() as client, client.stream("GET", f"{path(job_id)}?stream=true") as reply:
        return [json.loads(data)["message"] for name, _id, data in told(reply.iter_lines()) if name == "message"]


@pytest.mark.parametrize("place", ["ftevent-nothing-1", "5", "ftevent-"])
def test_a_place_that_is_no_event_of_the_job_is_refused(control_plane: ControlPlane, place: str) -> None:
    job_id = control_plane.create_job()["id"]
    reply = control_plane.request("GET", f"{path(job_id)}?stream=true", headers={"last-event-id": place})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "event_not_found", "Last-Event-ID")
    digits = f"ftevent-{job_id.removeprefix('ftjob-')}-{'1'.zfill(17)}{'9' * 20}"
    listed = control_plane.request("GET", f"{path(job_id)}?after={digits}").json()["error"]
    assert (listed["code"], listed["param"]) == ("event_not_found", "after")
    stranger = control_plane.request("GET", f"{path(job_id)}?stream=true", key="stranger")
    assert stranger.status_code == 404


def test_a_silent_stream_says_that_it_lives_and_does_not_live_for_ever(control_plane: ControlPlane) -> None:
    job_id = control_plane.create_job()["id"]

    async def listen(database: Database) -> list[bytes]:
        watcher = JobWatcher(database, most_waiting=1)
        streams = EventStreams(database, watcher, terms=StreamTerms(ping_seconds=0.05, life_seconds=1))
        seen = await watcher.look(job_id)
        assert seen is not None
        return [text async for text in streams.tell(job_id, seen, after_seq=seen.event_seq)]

    first, *pings = control_plane.run(listen)
    assert first == b"retry: 2000\n\n"
    assert len(pings) > 1
    assert set(pings) == {b": nothing new\n\n"}


def test_streams_close_when_the_process_goes(control_plane: ControlPlane) -> None:
    job_id = control_plane.create_job()["id"]
    app = create_app(control_plane.settings)
    config = uvicorn.Config(app, port=0, log_config=None, access_log=False, timeout_graceful_shutdown=60)
    server = Server(config, on_shutdown=app.state.watcher.close)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    eventually(lambda: server.started, what="the server")
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}{path(job_id)}?stream=true"
    headers = {"authorization": f"Bearer {control_plane.keys['member']}"}
    with httpx2.stream("GET", url, headers=headers, timeout=60, verify=False) as reply:
        eventually(lambda: app.state.watcher.waiting == 1, what="the stream is open")
        server.should_exit = True
        assert len(list(told(reply.iter_lines()))) == len(stored(control_plane, job_id))
    thread.join(20)
    assert not thread.is_alive()


def test_a_slow_client_is_read_for_slowly(control_plane: ControlPlane) -> None:
    """At most a hundred events are read before the client has taken them."""
    attempt = control_plane.claimed()
    control_plane.sql(
        "INSERT INTO events (job_id, seq, type, level, message) "
        "SELECT id, event_seq + n, 'message', 'info', 'x' FROM jobs, generate_series(1, 250) n WHERE id = %s",
        attempt.job_id,
    )
    control_plane.sql("UPDATE jobs SET event_seq = event_seq + 250 WHERE id = %s", attempt.job_id)

    async def take(database: Database) -> list[int]:
        watcher = JobWatcher(database, most_waiting=1)
        seen = await watcher.look(attempt.job_id)
        assert seen is not None
        sizes = []
        stream = EventStreams(database, watcher).tell(attempt.job_id, seen, after_seq=0)
        async for text in stream:
            sizes.append(text.count(b"id: "))
            if sum(sizes) == seen.event_seq:
                break
        await asyncio.sleep(0)
        return sizes

    sizes = control_plane.run(take)
    assert sum(sizes) == len(stored(control_plane, attempt.job_id))
    assert max(sizes) == 100
