"""Clients that ask again and again, or wait: what it costs, what they hear, and that they hear it in time."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from sqlalchemy import event
from structlog.testing import capture_logs

from tests.control_plane import ControlPlane
from tests.machines import CPU, SMALL_CPU
from tests.waiting import eventually
from tunesmith.service.audit.actions import OPERATOR
from tunesmith.service.database.transactions import Database
from tunesmith.service.jobs import lifecycle
from tunesmith.service.jobs.polling.answers import JobAnswer, JobAnswers
from tunesmith.service.jobs.polling.line import Line, Look
from tunesmith.service.jobs.polling.watcher import FRESH_SECONDS, JobWatcher
from tunesmith.service.keys import lifecycle as keys
from tunesmith.service.keys.cache import KEPT_SECONDS, KeyCache
from tunesmith.service.queue.fits import Fits
from tunesmith.service.queue.surroundings import Standing
from tunesmith.service.settings import ProjectLimits

JOBS = "/v1/fine_tuning/jobs"


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def statements(plane: ControlPlane) -> Iterator[list[str]]:
    """What requests have the API ask its database meanwhile: not its heartbeat, nor the delivery of an earlier job."""
    told: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if not any(table in statement for table in ("api_beats", "outbox", "wake_counts")):
            told.append(statement)

    engine = plane.app.state.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    yield told
    event.remove(engine, "before_cursor_execute", note)


@contextmanager
def read_ids(plane: ControlPlane) -> Iterator[list[list[str]]]:
    """Which jobs the API reads whole meanwhile, query by query."""
    read: list[list[str]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if "jobs.spec" in statement:
            read.append(list(parameters["ids"]))

    engine = plane.app.state.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    yield read
    event.remove(engine, "before_cursor_execute", note)


def listed(plane: ControlPlane, *, limit: int = 20) -> dict[str, Any]:
    return dict(plane.request("GET", f"{JOBS}?limit={limit}").json())


def poll(plane: ControlPlane, job_id: str, etag: str, *, wait: float = 0, key: str = "member") -> httpx2.Response:
    query = f"?wait={wait}" if wait else ""
    return plane.request("GET", f"{JOBS}/{job_id}{query}", key=key, headers={"if-none-match": etag})


def retrieve(plane: ControlPlane, job_id: str, *, key: str = "member", **options: Any) -> httpx2.Response:
    return plane.request("GET", f"{JOBS}/{job_id}", key=key, **options)


def waiting_job(plane: ControlPlane) -> tuple[str, str]:
    job_id = plane.create_job()["id"]
    return job_id, plane.request("GET", f"{JOBS}/{job_id}").headers["etag"]


def test_another_place_in_line_is_no_change_of_the_job(control_plane: ControlPlane) -> None:
    job_id, etag = waiting_job(control_plane)
    control_plane.create_job(tunesmith={"priority": 9})
    eventually(lambda: control_plane.job(job_id)["tunesmith"]["queue_position"] == 2, what="a new place")
    assert poll(control_plane, job_id, etag).status_code == 304


def test_what_a_job_waits_for_is_no_change_of_it_and_is_looked_at_once_a_second(
    control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    control_plane.worker()
    job_id, etag = waiting_job(control_plane)
    line = Line(lambda: control_plane.settings, clock=Clock())
    monkeypatch.setitem(control_plane.app.state._state, "line", line)
    before = control_plane.job(job_id)["tunesmith"]["waiting_reason"]
    control_plane.worker("w2")
    with statements(control_plane) as told:
        assert {control_plane.job(job_id)["tunesmith"]["waiting_reason"] for _ in range(3)} == {before}
    assert not [statement for statement in told if "workers" in statement]
    line.forget()
    assert control_plane.job(job_id)["tunesmith"]["waiting_reason"] != before
    assert poll(control_plane, job_id, etag).status_code == 304


def test_which_classes_fit_is_asked_once_for_jobs_that_are_alike(
    control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line(lambda: control_plane.settings, clock=Clock())
    monkeypatch.setitem(control_plane.app.state._state, "line", line)
    control_plane.worker()
    control_plane.worker("small", hardware=SMALL_CPU)
    file = control_plane.upload()
    asked = []
    for _ in range(2):
        line.forget()
        with statements(control_plane) as told:
            job_id = control_plane.create_job(training_file=file)["id"]
        asked.append(len([statement for statement in told if "DISTINCT ON (workers.worker_class)" in statement]))
        assert "it does not fit" in control_plane.job(job_id)["tunesmith"]["waiting_reason"]
    assert asked == [1, 0]


def test_a_look_at_which_classes_fit_takes_little_and_goes_on_at_the_next(control_plane: ControlPlane) -> None:
    control_plane.worker()
    control_plane.worker("small", hardware=SMALL_CPU)
    classes = [CPU.worker_class, SMALL_CPU.worker_class]
    job_id = control_plane.create_job()["id"]
    ((question,),) = control_plane.sql("SELECT question_sha256 FROM jobs WHERE id = %s", job_id)

    async def look_twice(database: Database) -> None:
        moments = iter(range(1000))  # each look at the clock is a second later
        fits = Fits(clock=lambda: next(moments))
        fits.want(question, job_id)
        known = []
        for _ in classes:
            async with database.transaction() as session:
                await fits.look(session, classes, silence=timedelta(minutes=1))
            known.append(fits.of(question, classes))
        assert known == [None, {CPU.worker_class}]

    control_plane.run(look_twice)


def test_a_poll_that_finds_nothing_new_asks_the_database_nothing(
    control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, etag = waiting_job(control_plane)
    poll(control_plane, job_id, etag)
    for keeper in (control_plane.app.state.watcher, control_plane.app.state.keys):
        now = time.monotonic()
        for name in ("clock", "_clock"):
            monkeypatch.setattr(keeper, name, lambda now=now: now, raising=False)
    poll(control_plane, job_id, etag)
    with statements(control_plane) as told:
        assert [poll(control_plane, job_id, etag).status_code for _ in range(10)] == [304] * 10
    assert told == []


def test_a_job_that_is_asked_for_again_is_looked_at_but_not_read_again(control_plane: ControlPlane) -> None:
    job_id = control_plane.claimed().job_id
    first = retrieve(control_plane, job_id)
    with statements(control_plane) as told:
        again = [retrieve(control_plane, job_id) for _ in range(10)]
    assert {(reply.content, reply.headers["etag"]) for reply in again} == {(first.content, first.headers["etag"])}
    assert {reply.headers["content-type"] for reply in again} == {"application/json"}
    assert [statement for statement in told if "jobs.spec" in statement] == []
    assert retrieve(control_plane, job_id, headers={"if-none-match": first.headers["etag"]}).status_code == 304


def test_whoever_asks_without_an_etag_sees_at_once_what_another_process_changed(control_plane: ControlPlane) -> None:
    job_id, _ = waiting_job(control_plane)
    for number in range(20):
        control_plane.sql("UPDATE jobs SET waiting_reason = %s WHERE id = %s", str(number), job_id)
        assert retrieve(control_plane, job_id).json()["tunesmith"]["waiting_reason"] == str(number)


def test_a_list_reads_those_jobs_alone_that_have_changed_since_they_were_sent(control_plane: ControlPlane) -> None:
    jobs = [control_plane.claimed(f"worker-{number}").job_id for number in range(4)]
    before = listed(control_plane)
    assert [job["id"] for job in before["data"]] == jobs[::-1]
    assert before == {**before, "has_more": False, "first_id": jobs[3], "last_id": jobs[0], "object": "list"}
    control_plane.sql("UPDATE jobs SET step = 7 WHERE id = %s", jobs[2])
    with read_ids(control_plane) as read:
        after = listed(control_plane)
        assert listed(control_plane) == after
    assert read == [[jobs[2]]]
    assert [job["tunesmith"]["progress"]["step"] for job in after["data"]] == [None, 7, None, None]
    assert after["data"] == [retrieve(control_plane, job_id).json() for job_id in jobs[::-1]]
    assert listed(control_plane, limit=3) == {**after, "data": after["data"][:3], "has_more": True, "last_id": jobs[1]}


def test_an_answer_that_was_sent_before_is_not_sent_with_a_place_of_before(
    control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = control_plane.create_job()["id"]
    job_id, etag = waiting_job(control_plane)
    now = time.monotonic()
    monkeypatch.setattr(control_plane.app.state.keys, "_clock", lambda: now)  # an unknown key goes the usual way
    assert retrieve(control_plane, job_id).json()["tunesmith"]["queue_position"] == 2
    control_plane.request("POST", f"{JOBS}/{ahead}/cancel")
    eventually(lambda: control_plane.job(job_id)["tunesmith"]["queue_position"] == 1, what="a new place")
    assert retrieve(control_plane, job_id).headers["etag"] == etag


def test_a_look_at_the_line_that_took_a_minute_is_taken_again_after_ten_seconds() -> None:
    clock = Clock()
    look = Look(clock)
    with look.taking():
        clock.now += 60
    clock.now += 9
    assert not look.is_due(after_seconds=1)
    clock.now += 1
    assert look.is_due(after_seconds=1)


def test_an_answer_that_was_sent_before_opens_no_job_to_others(control_plane: ControlPlane) -> None:
    job_id, _ = waiting_job(control_plane)
    for _ in range(2):  # for the second time all keys are known
        assert retrieve(control_plane, job_id).status_code == 200
        found = [retrieve(control_plane, job_id, key=key).status_code for key in ("stranger", "worker", "ts-wrong")]
        assert found == [404, 403, 401]
    assert retrieve(control_plane, f"{job_id}?nonsense=1").status_code == 400


def test_of_answers_the_last_ones_are_kept_up_to_a_size() -> None:
    answers = JobAnswers(most_bytes=30)
    for job_id in ("one", "two", "three"):
        answers.keep(job_id, JobAnswer(version=7, standing=None, body=b"x" * 10))
    assert answers.find("one") is not None
    answers.keep("three", JobAnswer(version=8, standing=None, body=b"x" * 12))
    assert [job_id for job_id in ("one", "two", "three") if answers.find(job_id)] == ["one", "three"]
    answers.keep("three", JobAnswer(version=7, standing=Standing(1, "x"), body=b"late"))
    assert answers.find("three") == JobAnswer(version=8, standing=None, body=b"x" * 12)
    answers.keep("four", JobAnswer(version=1, standing=None, body=b"x" * 31))
    assert [job_id for job_id in ("one", "three", "four") if answers.find(job_id)] == []


def test_what_this_process_changes_the_next_poll_sees(control_plane: ControlPlane) -> None:
    job_id, etag = waiting_job(control_plane)
    for round_ in range(6):
        assert poll(control_plane, job_id, etag).status_code == 304
        control_plane.request("POST", f"{JOBS}/{job_id}/{'resume' if round_ % 2 else 'pause'}")
        changed = poll(control_plane, job_id, etag)
        assert changed.json()["status"] == ("queued" if round_ % 2 else "paused")
        etag = changed.headers["etag"]


def test_what_another_process_changes_a_poll_sees_within_a_second(control_plane: ControlPlane) -> None:
    job_id, etag = waiting_job(control_plane)
    assert poll(control_plane, job_id, etag).status_code == 304
    control_plane.sql("UPDATE jobs SET waiting_reason = 'x' WHERE id = %s", job_id)
    time.sleep(FRESH_SECONDS)  # the bound itself, not a guess
    assert poll(control_plane, job_id, etag).json()["tunesmith"]["waiting_reason"] == "x"


def test_an_etag_opens_no_job_to_others(control_plane: ControlPlane) -> None:
    job_id, etag = waiting_job(control_plane)
    for wait in (0, 0, 1):  # twice, for the second time all keys are known
        assert poll(control_plane, job_id, etag).status_code == 304
        assert poll(control_plane, job_id, etag, wait=wait, key="stranger").status_code == 404
        assert poll(control_plane, job_id, etag, wait=wait, key="worker").status_code == 403
        assert poll(control_plane, job_id, etag, wait=wait, key="ts-wrong").status_code == 401
    assert poll(control_plane, "ftjob-nothing", etag).status_code == 404


def test_many_who_wait_hold_no_connection_and_hear_of_a_change_at_once(control_plane: ControlPlane) -> None:
    job_id, etag = waiting_job(control_plane)
    watcher, pool = control_plane.app.state.watcher, control_plane.app.state.database.engine.pool
    with ThreadPoolExecutor(24) as clients:
        waiting = [clients.submit(poll, control_plane, job_id, etag, wait=60) for _ in range(24)]
        eventually(lambda: watcher.waiting == 24, what="everybody waits")
        assert pool.checkedout() <= 1
        assert control_plane.request("GET", f"{JOBS}/{job_id}").status_code == 200
        control_plane.sql("UPDATE jobs SET waiting_reason = 'x' WHERE id = %s", job_id)
        began = time.monotonic()
        assert {reply.result().json()["tunesmith"]["waiting_reason"] for reply in waiting} == {"x"}
        assert time.monotonic() - began < 30
    assert watcher.waiting == 0


def test_a_wait_ends_unchanged_when_its_time_is_over(control_plane: ControlPlane) -> None:
    job_id, etag = waiting_job(control_plane)
    other = control_plane.create_job()["id"]
    with ThreadPoolExecutor(1) as client:
        reply = client.submit(poll, control_plane, job_id, etag, wait=1)
        control_plane.request("POST", f"{JOBS}/{other}/cancel")
        assert reply.result().status_code == 304


def test_more_than_may_wait_are_sent_away_and_told_when_to_come_back(
    control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, etag = waiting_job(control_plane)
    monkeypatch.setattr(control_plane.app.state.watcher, "_most_waiting", 0)
    refused = [
        poll(control_plane, job_id, etag, wait=5),
        control_plane.request("GET", f"{JOBS}/{job_id}/events?stream=true"),
    ]
    for reply in refused:
        assert (reply.status_code, reply.json()["error"]["code"]) == (429, "too_many_waiting")
        assert reply.headers["retry-after"] == "1"
    assert poll(control_plane, job_id, etag).status_code == 304


def test_a_look_that_fails_keeps_nobody_from_hearing_of_the_next_change(control_plane: ControlPlane) -> None:
    job_id = control_plane.create_job()["id"]

    async def wait_and_change(database: Database) -> None:
        watcher = JobWatcher(database, most_waiting=1)
        before = await watcher.look(job_id)
        assert before is not None
        waiting = asyncio.create_task(watcher.next_change(job_id, before, seconds=20))
        with capture_logs() as said:
            control_plane.sql("ALTER TABLE jobs RENAME TO elsewhere")
            try:
                while "watcher.look_failed" not in [line["event"] for line in said]:  # noqa: ASYNC110 - a log tells nobody
                    await asyncio.sleep(0.01)
            finally:
                control_plane.sql("ALTER TABLE elsewhere RENAME TO jobs")
        control_plane.request("POST", f"{JOBS}/{job_id}/pause")
        after = await waiting
        assert after is not None
        assert after.version > before.version

    control_plane.run(wait_and_change)


def test_a_watcher_never_says_what_was_so_before_a_change_of_its_own(control_plane: ControlPlane) -> None:
    """However the look and the change fall together."""
    job_id = control_plane.create_job()["id"]

    async def look_and_change(database: Database) -> None:
        watcher = JobWatcher(database, most_waiting=1)

        async def change(round_: int) -> int:
            async with database.transaction() as session:
                if round_ % 2:
                    job = await lifecycle.resume(session, job_id, project="acme", limits=ProjectLimits())
                else:
                    job = await lifecycle.pause(session, job_id, project="acme")
            return job.version

        for round_ in range(20):
            looks = [asyncio.create_task(watcher.look(job_id)) for _ in range(3)]
            await asyncio.sleep(0)
            version = await change(round_)
            seen = watcher.known(job_id) or await watcher.look(job_id)
            assert seen is not None
            assert seen.version >= version
            await asyncio.gather(*looks)
            seen = watcher.known(job_id) or await watcher.look(job_id)
            assert seen is not None
            assert seen.version >= version

    control_plane.run(look_and_change)


class TestKeys:
    def test_a_key_that_another_process_revoked_opens_nothing_after_five_seconds(self, plane: ControlPlane) -> None:
        async def revoke(database: Database) -> None:
            clock = Clock()
            cache = KeyCache(database, clock=clock)
            key = plane.keys["member"]
            found = await cache.find(key)
            assert found is not None
            assert (found.id, found.project, found.role) == ("key-member", "acme", "member")
            plane.sql("UPDATE api_keys SET revoked_at = now() WHERE id = 'key-member'")
            clock.now += KEPT_SECONDS - 0.01
            assert cache.known(key) == found
            clock.now += 0.01
            assert cache.known(key) is None
            assert await cache.find(key) is None

        plane.run(revoke)

    def test_a_key_that_this_process_revokes_opens_nothing_at_once(self, plane: ControlPlane) -> None:
        async def revoke(database: Database) -> None:
            cache = KeyCache(database)
            assert await cache.find(plane.keys["member"])
            async with database.transaction() as session:
                await keys.revoke(session, "key-member", actor=OPERATOR)
            assert await cache.find(plane.keys["member"]) is None

        plane.run(revoke)

    def test_a_thousand_first_requests_at_once_ask_for_their_key_together(self, plane: ControlPlane) -> None:
        async def find(database: Database) -> None:
            asked: list[int] = []
            event.listen(database.engine.sync_engine, "before_cursor_execute", lambda *_rest: asked.append(1))
            cache = KeyCache(database)
            found = await asyncio.gather(*(cache.find(plane.keys["member"]) for _ in range(1000)))
            assert {key.id for key in found if key} == {"key-member"}
            assert len(asked) <= 4

        plane.run(find)

    def test_a_new_key_works_at_once_though_it_was_tried_before(self, plane: ControlPlane) -> None:
        plane.keys["new"] = "ts-new"
        assert plane.request("GET", JOBS, key="new").status_code == 401
        plane.sql(
            "INSERT INTO api_keys (id, name, role, project, key_sha256, hint) "
            "VALUES ('key-new', 'new', 'member', 'acme', encode(sha256('ts-new'), 'hex'), 'new')"
        )
        assert plane.request("GET", JOBS, key="new").status_code == 200

    def test_a_key_that_was_seen_costs_no_query(self, plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
        plane.request("GET", "/v1/models")
        now = time.monotonic()
        monkeypatch.setattr(plane.app.state.keys, "_clock", lambda: now)
        plane.request("GET", "/v1/models")
        with statements(plane) as told:
            plane.request("GET", "/v1/models")
        assert not [statement for statement in told if "api_keys" in statement]
