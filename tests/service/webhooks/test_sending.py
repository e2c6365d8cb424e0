"""Events of jobs arrive: signed, once for each endpoint, again and again until somebody has heard."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any

import psycopg
import pytest
from openai import OpenAI

from tests.control_plane import ControlPlane
from tests.service.webhooks.receiver import (
    HERE,
    Receiver,
    answer,
    cancelled,
    courier_of,
    deliveries,
    listen,
    receiving,
    send,
    shown,
)
from tests.waiting import PATIENCE_SECONDS, eventually
from tunesmith.service.database.transactions import Database
from tunesmith.service.outbox.store import tell_later
from tunesmith.service.webhooks.sending import Outcome, Sender
from tunesmith.tuning.errors import Category, Failure
from tunesmith.tuning.state import Outcome as Ending
from tunesmith.tuning.values.json_objects import Json
from tunesmith.tuning.words import WebhookEventType


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def test_every_ending_of_a_job_arrives_in_the_form_that_openais_client_unwraps(
    control_plane: ControlPlane, receiver: Receiver
) -> None:
    endpoint = listen(control_plane, receiver.url)
    good = control_plane.claimed("worker-1")
    good.succeed()
    bad = control_plane.claimed("worker-2")
    bad.finish(Ending.FAILED, failure=Failure(code="invalid_training_file", message="no", category=Category.USER_ERROR))
    ended = [("succeeded", good.job_id), ("failed", bad.job_id), ("cancelled", cancelled(control_plane))]
    assert send(control_plane) == 3

    client = OpenAI(api_key="unused", webhook_secret=endpoint.secret)
    events = [client.webhooks.unwrap(body, headers) for headers, body in receiver.came]
    assert [type(event).__name__ for event in events] == [
        f"FineTuningJob{word.capitalize()}WebhookEvent" for word, _job_id in ended
    ]
    assert [(event.type, event.data.id) for event in events] == [  # type: ignore[union-attr]
        (f"fine_tuning.job.{word}", job_id) for word, job_id in ended
    ]
    assert events[0].created_at == control_plane.job(good.job_id)["finished_at"]
    assert [event.id for event in events] == receiver.ids
    assert {headers["host"] for headers, _body in receiver.came} == {receiver.url.split("/")[2]}
    assert send(control_plane) == 0


def test_an_event_is_recorded_with_the_change_or_not_at_all(control_plane: ControlPlane) -> None:
    job_id = control_plane.create_job()["id"]
    end = "UPDATE jobs SET state = 'cancelled', finished_at = now() WHERE id = %s"
    with psycopg.connect(control_plane.settings.database_url) as connection:
        connection.execute(end, (job_id,))
        connection.rollback()
    assert control_plane.sql("SELECT 1 FROM outbox WHERE topic = 'event'") == []
    control_plane.sql(end, job_id)
    assert control_plane.sql("SELECT payload->'event'->'data'->>'id' FROM outbox WHERE topic = 'event'") == [(job_id,)]


def test_other_events_take_the_same_road_and_stay_small(control_plane: ControlPlane, receiver: Receiver) -> None:
    endpoint = listen(control_plane, receiver.url)
    event: Json = {"id": "evt-1", "object": "event", "created_at": 1, "type": "fine_tuning.job.failed"}

    async def tell(database: Database, **data: str) -> None:
        async with database.transaction() as session:
            tell_later(session, {**event, "data": data}, project="acme")

    control_plane.run(lambda database: tell(database, id="schedule-1", reason="no data"))
    with pytest.raises(ValueError, match="20,000 bytes"):
        control_plane.run(lambda database: tell(database, id="x" * 20_000))
    assert send(control_plane) == 1
    assert json.loads(receiver.came[0][1])["data"] == {"id": "schedule-1", "reason": "no data"}
    assert deliveries(control_plane, endpoint)[0]["event"]["data"]["reason"] == "no data"


def test_only_endpoints_of_the_project_that_want_the_event_get_it(
    control_plane: ControlPlane, receiver: Receiver
) -> None:
    listen(control_plane, receiver.url, WebhookEventType.JOB_SUCCEEDED)
    cancelled(control_plane)
    assert send(control_plane) == 0
    with receiving() as theirs:
        listen(control_plane, theirs.url, project="other")
        cancelled(control_plane)
        their_job = cancelled(control_plane, key="stranger")
        assert send(control_plane) == 1
        assert their_job.encode() in theirs.came[0][1]
    listen(control_plane, receiver.url, WebhookEventType.JOB_CANCELLED)
    job_id = cancelled(control_plane)
    assert send(control_plane) == 1
    assert job_id.encode() in receiver.came[0][1]


def test_several_keepers_send_each_event_once(control_plane: ControlPlane, receiver: Receiver) -> None:
    listen(control_plane, receiver.url)
    jobs = [cancelled(control_plane) for _ in range(6)]

    async def at_once(database: Database) -> None:
        await asyncio.gather(*(courier_of(database).sweep() for _ in range(4)))

    control_plane.run(at_once)
    assert len(receiver.ids) == len(set(receiver.ids)) == len(jobs)


def test_one_that_hangs_holds_up_nobody(control_plane: ControlPlane, receiver: Receiver) -> None:
    heard, over = threading.Event(), threading.Event()
    was_heard_meanwhile = []

    def hang(_request: BaseHTTPRequestHandler) -> None:
        was_heard_meanwhile.append(heard.wait(2))  # less than this one has to answer
        over.wait(PATIENCE_SECONDS)

    def hear(request: BaseHTTPRequestHandler) -> None:
        heard.set()
        answer(200)(request)

    receiver.behaviour = hear
    with receiving(hang) as hanging:
        stuck, fine = listen(control_plane, hanging.url), listen(control_plane, receiver.url)
        cancelled(control_plane)
        assert send(control_plane, seconds=3) == 2
        over.set()
    assert was_heard_meanwhile == [True]
    assert deliveries(control_plane, fine)[0]["status"] == "delivered"
    waiting = deliveries(control_plane, stuck)[0]
    assert (waiting["status"], waiting["tries"][0]["error"]) == ("waiting", "No answer within 3 s.")


def test_a_running_courier_opens_new_lanes_while_another_hangs(control_plane: ControlPlane, receiver: Receiver) -> None:
    heard = threading.Event()
    receiver.behaviour = lambda request: (answer(200)(request), heard.set())[0]
    release = threading.Event()
    with receiving(lambda _request: (release.wait(PATIENCE_SECONDS), None)[1]) as hanging:
        listen(control_plane, hanging.url)
        cancelled(control_plane)

        async def go(database: Database) -> None:
            stop = asyncio.Event()
            running = asyncio.create_task(courier_of(database, seconds=60).run(stop))
            await asyncio.to_thread(eventually, lambda: hanging.came)
            await asyncio.to_thread(listen, control_plane, receiver.url)
            await asyncio.to_thread(cancelled, control_plane)
            try:
                assert await asyncio.to_thread(heard.wait, 30)
            finally:
                release.set()
                stop.set()
                await running

        control_plane.run(go)


def test_a_receiver_that_fails_for_a_day_hears_the_same_event_when_it_is_back(
    control_plane: ControlPlane, receiver: Receiver
) -> None:
    receiver.behaviour = answer(503, b"down")
    endpoint = listen(control_plane, receiver.url)
    job_id = cancelled(control_plane)
    # At once, then after 5 s, 5 min, 30 min, 2 h, 5 h and 10 h.
    minutes = (0, 1, 5, 7, 38, 159, 460, 1061, 1439)
    tries = [send(control_plane, later=timedelta(minutes=minute)) for minute in minutes]
    assert tries == [1, 1, 0, 1, 1, 1, 1, 1, 0]
    assert deliveries(control_plane, endpoint)[0]["status"] == "waiting"
    assert shown(control_plane, endpoint)["tunesmith"]["failing_since"] is not None
    receiver.behaviour = answer(200)
    assert send(control_plane, later=timedelta(days=1, hours=14)) == 1
    delivery = deliveries(control_plane, endpoint)[0]
    assert (delivery["status"], delivery["event"]["data"]["id"]) == ("delivered", job_id)
    assert [(one["status_code"], one["answer"]) for one in delivery["tries"]] == [(503, "down")] * 7 + [(200, "thanks")]
    assert len(set(receiver.ids)) == 1
    assert shown(control_plane, endpoint)["tunesmith"] == {
        "enabled": True,
        "disabled_reason": None,
        "failing_since": None,
    }


def test_days_of_failure_disable_an_endpoint_with_a_mark_and_enabling_goes_on(
    control_plane: ControlPlane, receiver: Receiver
) -> None:
    receiver.behaviour = answer(500)
    endpoint = listen(control_plane, receiver.url)
    cancelled(control_plane)
    for hours in (0, 1, 2, 5, 12, 30, 60):
        send(control_plane, later=timedelta(hours=hours))
    assert shown(control_plane, endpoint)["tunesmith"]["enabled"]
    send(control_plane, later=timedelta(hours=80))
    mark = shown(control_plane, endpoint)["tunesmith"]
    assert not mark["enabled"]
    assert "has failed. Last: Answered 500." in mark["disabled_reason"]
    cancelled(control_plane)
    assert send(control_plane, later=timedelta(hours=200)) == 0

    again = {"tunesmith": {"enabled": True}}
    assert control_plane.request("POST", f"/v1/webhook_endpoints/{endpoint.id}", json=again).status_code == 200
    receiver.behaviour = answer(200)
    delivery = deliveries(control_plane, endpoint)[0]
    redeliver = f"/v1/webhook_endpoints/{endpoint.id}/deliveries/{delivery['id']}/redeliver"
    assert control_plane.request("POST", redeliver).json()["status"] == "waiting"
    assert send(control_plane, later=timedelta(hours=200)) == 1
    assert len(set(receiver.ids)) == 1


def test_gone_disables_at_once(control_plane: ControlPlane, receiver: Receiver) -> None:
    receiver.behaviour = answer(410)
    endpoint = listen(control_plane, receiver.url)
    cancelled(control_plane)
    send(control_plane)
    assert "410" in shown(control_plane, endpoint)["tunesmith"]["disabled_reason"]
    assert deliveries(control_plane, endpoint)[0]["status"] == "failed"
    refused = f"/v1/webhook_endpoints/{endpoint.id}/deliveries/{deliveries(control_plane, endpoint)[0]['id']}/redeliver"
    assert control_plane.request("POST", refused).json()["error"]["code"] == "webhook_disabled"


def test_what_was_sent_and_not_written_down_is_sent_again_under_the_same_id(
    control_plane: ControlPlane, receiver: Receiver
) -> None:
    class Dies(Sender):
        async def send(self, *arguments: Any, **options: Any) -> Outcome:
            await super().send(*arguments, **options)
            raise OSError("the process ends here")

    listen(control_plane, receiver.url)
    cancelled(control_plane)

    async def die(database: Database) -> int:
        courier = courier_of(database)
        courier._sender = Dies(HERE, timeout_seconds=5)
        return await courier.sweep()

    control_plane.run(die)
    assert send(control_plane) == 0, "another may still be at it"
    assert send(control_plane, later=timedelta(seconds=61)) == 1
    assert len(receiver.ids) == 2
    assert len(set(receiver.ids)) == 1


def test_a_redirect_is_not_followed(control_plane: ControlPlane, receiver: Receiver) -> None:
    with receiving() as elsewhere:
        receiver.behaviour = answer(307, location=elsewhere.url)
        endpoint = listen(control_plane, receiver.url)
        cancelled(control_plane)
        send(control_plane)
        assert elsewhere.came == []
    first = deliveries(control_plane, endpoint)[0]["tries"][0]
    assert (first["status_code"], first["error"]) == (307, "Answered 307; redirects are not followed.")


def test_a_body_of_a_gigabyte_is_not_read(control_plane: ControlPlane, receiver: Receiver) -> None:
    written = [0]

    def pour(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("content-length", str(10**9))
        request.end_headers()
        for _ in range(10**9 // 2**16):
            request.wfile.write(b"x" * 2**16)
            written[0] += 2**16

    receiver.behaviour = pour
    endpoint = listen(control_plane, receiver.url)
    cancelled(control_plane)
    send(control_plane)
    delivery = deliveries(control_plane, endpoint)[0]
    assert (delivery["status"], delivery["tries"][0]["answer"]) == ("delivered", "x" * 512)
    assert written[0] < 50 * 2**20


def test_a_body_that_never_ends_does_not_change_what_the_status_said(
    control_plane: ControlPlane, receiver: Receiver
) -> None:
    def drip(request: BaseHTTPRequestHandler) -> None:
        request.send_response(204 if request.path == "/none" else 200)
        request.send_header("content-length", "100")
        request.end_headers()
        request.wfile.write(b"begun")
        time.sleep(3)

    receiver.behaviour = drip
    endpoint = listen(control_plane, receiver.url)
    cancelled(control_plane)
    send(control_plane)
    delivery = deliveries(control_plane, endpoint)[0]
    assert (delivery["status"], delivery["tries"][0]["answer"]) == ("delivered", "begun")


def test_a_new_secret_signs_beside_the_old_one_for_a_day(control_plane: ControlPlane, receiver: Receiver) -> None:
    endpoint = listen(control_plane, receiver.url)
    rotated = control_plane.request(
        "POST",
        f"/v1/webhook_endpoints/{endpoint.id}/rotate_secret",
        json={"keep_old_secret_active_for_24_hours": True},
    ).json()
    assert rotated["signing_secret"] not in (endpoint.secret, None)
    cancelled(control_plane)
    send(control_plane)
    headers, body = receiver.came[0]
    for secret in (endpoint.secret, rotated["signing_secret"]):
        OpenAI(api_key="unused", webhook_secret=secret).webhooks.unwrap(body, headers)
    cancelled(control_plane)
    send(control_plane, later=timedelta(hours=25))
    assert len(receiver.came[1][0]["webhook-signature"].split(" ")) == 1


def test_a_deleted_endpoint_takes_what_waited_with_it(control_plane: ControlPlane, receiver: Receiver) -> None:
    receiver.behaviour = answer(500)
    endpoint = listen(control_plane, receiver.url)
    cancelled(control_plane)
    send(control_plane)
    deleted = control_plane.request("DELETE", f"/v1/webhook_endpoints/{endpoint.id}").json()
    assert deleted == {"id": endpoint.id, "object": "webhook_endpoint.deleted", "deleted": True}
    assert control_plane.sql("SELECT count(*) FROM webhook_deliveries") == [(0,)]
    assert send(control_plane, later=timedelta(days=1)) == 0
