"""Schedules: each due time leaves one line that says what was decided and why, and at most one job."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from tests.control_plane import chat_rows
from tests.service.nightly.nights import PROD, Nights
from tunesmith.service.schedules.record_due import record_due
from tunesmith.service.settings import ProjectLimits

DAY = timedelta(days=1)


def states(nights: Nights) -> list[str]:
    return [firing["state"] for firing in nights.firings()]


class TestFiring:
    def test_a_due_time_makes_one_job_of_the_newest_file(self, nights: Nights) -> None:
        nights.upload(10)
        newest = nights.upload(12)
        nights.create(job={"model": "tiny-llama", "suffix": "night", "metadata": {"team": "support"}})
        firing = nights.next_night()
        nights.sweep()
        assert (firing["state"], firing["training_file"], firing["base_model"]) == ("submitted", newest, "tiny-llama")
        job = nights.plane.job(firing["job_id"])
        assert job["training_file"] == newest
        assert job["metadata"] == {"team": "support", "schedule": "nightly", "firing": firing["id"]}
        assert job["seed"] == 7
        assert nights.plane.sql("SELECT count(*) FROM jobs") == [(1,)]
        due = datetime.fromtimestamp(firing["due_at"], UTC)
        assert (f"{due.minute} {due.hour} * * *", due.second) == (nights.body()["cron"], 0)

    def test_nothing_happens_before_its_time(self, nights: Nights) -> None:
        nights.upload()
        nights.create()
        nights.sweep()
        assert nights.firings() == []

    def test_labels_name_the_newest_file_that_has_all_of_them(self, nights: Nights) -> None:
        def upload(**labels: str) -> str:
            data = {"purpose": "fine-tune"} | {f"metadata[{key}]": value for key, value in labels.items()}
            response = nights.plane.request("POST", "/v1/files", data=data, files={"file": ("x", chat_rows())})
            assert response.json()["tunesmith"]["metadata"] == labels, response.text
            return str(response.json()["id"])

        upload(dataset="support", language="en")
        wanted = upload(dataset="support", language="de", round="1")
        upload(dataset="other", language="de")
        nights.upload()
        nights.create(data={"metadata": {"dataset": "support", "language": "de"}})
        assert nights.next_night()["training_file"] == wanted

    def test_jitter_moves_the_firing_and_not_the_due_time(self, nights: Nights) -> None:
        nights.upload()
        created = nights.create(jitter_seconds=3600)
        first = created["next_due"][0]
        delay = first["fires_at"] - first["due_at"]
        assert 0 <= delay <= 3600
        nights.at = datetime.fromtimestamp(first["fires_at"], UTC) - timedelta(seconds=1)
        nights.sweep()
        assert nights.firings() == []
        nights.sweep(after=timedelta(seconds=1))
        assert nights.firings()[0]["due_at"] == first["due_at"]
        assert {due["fires_at"] - due["due_at"] for due in nights.schedule()["next_due"]} == {delay}

    def test_the_next_due_times_are_shown_on_the_clock_of_the_zone(self, nights: Nights) -> None:
        shown = nights.create(cron="0 3 * * *", timezone="Asia/Kathmandu")["next_due"]
        assert len(shown) == 5
        assert all(due["local_time"].endswith("T03:00+05:45") for due in shown)
        assert [b["due_at"] - a["due_at"] for a, b in pairwise(shown)] == [86400] * 4


class TestUnchanged:
    def test_a_night_without_anything_new_is_skipped_and_says_of_which_job(self, nights: Nights) -> None:
        nights.upload()
        nights.create()
        first = nights.next_night()
        nights.train()
        second = nights.next_night()
        assert (second["state"], second["job_id"]) == ("skipped", None)
        assert first["job_id"] in second["reason"]
        nights.upload(21)
        assert nights.next_night()["state"] == "submitted"

    @pytest.mark.parametrize("change", ["data", "settings", "base"])
    def test_a_change_of_any_of_the_three_makes_a_job(self, nights: Nights, change: str) -> None:
        nights.upload()
        nights.create()
        nights.next_night()
        nights.train()
        job: dict[str, Any] = {"model": "tiny-llama"}
        if change == "data":
            nights.upload(22)
        elif change == "settings":
            job["tunesmith"] = {"goal": "quality"}
        else:
            job["model"] = nights.plane.add_model("other-base")
        nights.replace(job=job)
        assert nights.next_night()["state"] == "submitted"

    def test_the_same_base_under_another_name_is_nothing_new(self, nights: Nights) -> None:
        nights.upload()
        nights.plane.request("PUT", "/v1/aliases/ft:base@now", json={"model": "tiny-llama"}).raise_for_status()
        nights.create()
        nights.next_night()
        nights.train()
        nights.replace(job={"model": "ft:base@now", "metadata": {"note": "nothing depends on labels"}})
        assert nights.next_night()["state"] == "skipped"

    def test_a_champion_made_of_the_same_rows_is_not_trained_on_them_again(self, nights: Nights) -> None:
        nights.upload()
        nights.create(alias=PROD, promotion="always", start_from="champion")
        nights.next_night()
        first = nights.train()
        assert nights.alias() == first
        assert nights.next_night()["state"] == "skipped"
        nights.upload(21)
        assert nights.next_night()["base_model"] == first

    def test_after_a_job_that_failed_the_same_is_tried_again(self, nights: Nights) -> None:
        nights.upload()
        nights.create()
        first = nights.next_night()
        nights.post(f"/v1/fine_tuning/jobs/{first['job_id']}/cancel")
        second = nights.next_night()
        assert (second["state"], states(nights)[0]) == ("submitted", "cancelled")

    def test_run_now_can_insist(self, nights: Nights) -> None:
        nights.upload()
        nights.create()
        nights.next_night()
        nights.train()
        for force, state in ((False, "skipped"), (True, "submitted")):
            fired = nights.post("/v1/schedules/nightly/run", {"force": force}).json()
            assert (fired["state"], fired["trigger"]) == ("due", "manual")
            nights.sweep()
            assert nights.get(f"/v1/schedules/nightly/firings/{fired['id']}")["state"] == state


class TestOverlap:
    def test_skip_leaves_the_night_out(self, nights: Nights) -> None:
        nights.upload()
        nights.create()
        first = nights.next_night()
        nights.upload(21)
        second = nights.next_night()
        assert (second["state"], first["job_id"] in second["reason"]) == ("skipped", True)

    def test_queue_waits_for_the_end_and_takes_what_is_newest_then(self, nights: Nights) -> None:
        nights.upload()
        nights.create(overlap="queue")
        nights.next_night()
        nights.upload(21)
        waiting = nights.next_night()
        assert waiting["state"] == "waiting"
        third = nights.next_night()
        assert (third["state"], "waits" in third["reason"]) == ("skipped", True)
        newest = nights.upload(22)
        nights.train()
        nights.sweep(after=timedelta(seconds=10))
        decided = nights.firings()[1]
        assert (decided["state"], decided["training_file"], decided["reason"]) == ("submitted", newest, None)

    def test_cancel_previous_ends_the_old_job(self, nights: Nights) -> None:
        nights.upload()
        nights.create(overlap="cancel_previous")
        first = nights.next_night()
        nights.upload(21)
        second = nights.next_night()
        assert nights.plane.job(first["job_id"])["status"] == "cancelled"
        assert (second["state"], first["job_id"] in second["reason"]) == ("submitted", True)
        nights.sweep()
        assert states(nights) == ["cancelled", "submitted"]


class TestMissed:
    def test_after_an_outage_the_latest_due_time_runs_and_each_earlier_one_has_its_line(self, nights: Nights) -> None:
        nights.upload()
        nights.create()
        latest = nights.next_night(late_by=3 * DAY + timedelta(hours=2))
        assert states(nights) == ["missed", "missed", "missed", "submitted"]
        assert latest["reason"] == "Fires 2.0 h late."
        assert all(firing["reason"] for firing in nights.firings())

    def test_skip_runs_none_that_is_too_late(self, nights: Nights) -> None:
        nights.upload()
        nights.create(missed="skip", grace_seconds=600)
        assert nights.next_night(late_by=timedelta(seconds=599))["state"] == "submitted"
        assert nights.next_night(late_by=timedelta(seconds=601))["state"] == "missed"

    def test_many_missed_due_times_are_recorded_over_several_sweeps(self, nights: Nights) -> None:
        nights.upload()
        nights.create(cron="*/5 * * * *")
        nights.next_night(late_by=2 * DAY)
        firings = nights.firings()
        dues = [firing["due_at"] for firing in firings]
        assert dues == list(range(dues[0], dues[-1] + 1, 300))
        assert len(dues) == 2 * 288 + 1
        assert states(nights).count("submitted") == 1
        assert states(nights)[-1] == "submitted"


class TestPausing:
    def test_a_paused_schedule_leaves_its_nights_out_and_runs_when_told(self, nights: Nights) -> None:
        nights.upload()
        nights.create()
        paused = nights.post("/v1/schedules/nightly/pause").json()
        assert (paused["paused"], paused["next_due"]) == (True, [])
        nights.sweep(after=2 * DAY)
        assert nights.firings() == []
        nights.post("/v1/schedules/nightly/run")
        nights.sweep()
        assert states(nights) == ["submitted"]
        assert nights.post("/v1/schedules/nightly/resume").json()["next_due"]

    def test_run_now_sent_twice_with_one_key_fires_once(self, nights: Nights) -> None:
        nights.upload()
        nights.create()
        answers = [nights.post("/v1/schedules/nightly/run", headers={"Idempotency-Key": "commit 1"}) for _ in range(3)]
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert len(nights.firings()) == 1

    def test_a_key_of_run_now_is_for_one_request_and_no_longer_than_others(self, nights: Nights) -> None:
        nights.create()
        assert nights.post("/v1/schedules/nightly/run", headers={"idempotency-key": "once"}).status_code == 200
        for key, force, code in (("once", True, "idempotency_key_reused"), ("k" * 9000, False, "invalid_request")):
            run = nights.post("/v1/schedules/nightly/run", {"force": force}, headers={"idempotency-key": key})
            error = run.json()["error"]
            assert (run.status_code, error["code"], error["param"]) == (400, code, "Idempotency-Key")

    def test_what_was_due_before_a_change_is_not_lost_by_it(self, nights: Nights) -> None:
        nights.upload()
        for change in ("replace", "pause"):
            nights.create(name=change)
            nights.plane.sql("UPDATE schedules SET next_due_at = now() - interval '1 second', next_fires_at = now()")
            nights.replace(name=change) if change == "replace" else nights.post(f"/v1/schedules/{change}/pause")
            assert [firing["state"] for firing in nights.firings(change)] == ["due"]

    def test_a_deleted_schedule_fires_no_more_and_promotes_nothing(self, nights: Nights) -> None:
        nights.upload()
        nights.create(alias=PROD, promotion="always")
        nights.next_night()
        nights.post("/v1/schedules/nightly/run")
        assert nights.plane.request("DELETE", "/v1/schedules/nightly").json()["deleted"] is True
        nights.train()
        nights.sweep(after=2 * DAY)
        assert nights.plane.sql("SELECT state FROM firings ORDER BY due_at DESC") == [("trained",), ("cancelled",)]
        assert nights.alias() is None
        assert nights.plane.request("GET", "/v1/schedules/nightly").status_code == 404
        nights.create()


class TestWhatIsGone:
    """A night that cannot be says why, and the next one is tried again."""

    def refused(self, nights: Nights) -> dict[str, Any]:
        firing = nights.next_night()
        assert (firing["state"], firing["job_id"]) == ("failed", None)
        assert firing["reason"]
        return firing

    def test_the_file(self, nights: Nights) -> None:
        nights.create()
        assert self.refused(nights)["code"] == "file_not_found"
        deleted = nights.upload()
        nights.plane.request("DELETE", f"/v1/files/{deleted}")
        assert self.refused(nights)["code"] == "file_not_found"
        nights.upload()
        assert nights.next_night()["state"] == "submitted"

    def test_the_newest_file_is_broken_and_no_older_one_takes_its_place(self, nights: Nights) -> None:
        nights.upload()
        nights.plane.upload(b'{"messages": []}\n')
        nights.create()
        assert self.refused(nights)["code"] == "invalid_training_file"

    def test_the_base(self, nights: Nights) -> None:
        nights.upload()
        nights.create(job={"model": nights.plane.add_model("short-lived")})
        nights.plane.request("DELETE", "/v1/models/short-lived", key="admin").raise_for_status()
        assert self.refused(nights)["code"] == "model_not_found"

    def test_the_champion(self, nights: Nights) -> None:
        nights.upload()
        nights.create(alias=PROD, promotion="always", start_from="champion")
        nights.next_night()
        nights.train()
        nights.plane.request("DELETE", f"/v1/aliases/{PROD}").raise_for_status()
        nights.upload(21)
        assert self.refused(nights)["code"] == "alias_not_found"

    def test_the_key_in_whose_name_jobs_are_made(self, nights: Nights) -> None:
        nights.upload()
        nights.create()
        nights.plane.sql("UPDATE api_keys SET revoked_at = now() WHERE id = 'key-member'")
        nights.next_night()
        ((state, code),) = nights.plane.sql("SELECT state, code FROM firings")
        assert (state, code) == ("failed", "owner_key_revoked")

    def test_a_full_line_is_waited_for(self, nights: Nights) -> None:
        nights.upload()
        nights.create()
        other = nights.plane.create_job()["id"]
        nights.settings = nights.settings.model_copy(update={"project_limits": {"acme": ProjectLimits(queued_jobs=1)}})
        firing = nights.next_night()
        assert (firing["state"], firing["code"], firing["tries"]) == ("due", "too_many_queued_jobs", 1)
        nights.post(f"/v1/fine_tuning/jobs/{other}/cancel")
        nights.sweep(after=timedelta(minutes=1))
        firing = nights.firings()[0]
        assert (firing["state"], firing["code"], firing["reason"]) == ("submitted", None, None)
        assert nights.plane.sql("SELECT count(*) FROM jobs WHERE id <> %s", other) == [(1,)]


JOB = {"model": "tiny-llama"}
GATED = {"alias": PROD, "promotion": "on_verdict"}
OLD = "gate.guards.old.file"
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"cron": "0 0 30 2 *"}, "cron", "cron_never_due"),
    ({"cron": "every night"}, "cron", "invalid_cron"),
    ({"timezone": "Europe/Berln"}, "timezone", "unknown_time_zone"),
    ({"data": {}}, "data", "invalid_value"),
    ({"data": {"file": "a", "filename": "b"}}, "data", "invalid_value"),
    ({"data": {"url": "https://example.com/x"}}, "data.url", "url_not_allowed"),
    ({"data": {"filname": "x"}}, "data.filname", "unknown_parameter"),
    ({"job": {"model": "no-such"}}, "job.model", "model_not_found"),
    ({"job": {**JOB, "training_file": "file-1"}}, "job.training_file", "unknown_parameter"),
    ({"job": {**JOB, "metadata": {"firing": "x"}}}, "job.metadata", "invalid_value"),
    ({"job": {**JOB, "tunesmith": {"priority": 50}}}, "job.tunesmith.priority", "priority_too_high"),
    ({"job": {**JOB, "method": {"type": "reinforcement"}}}, "job.method.type", "unsupported_value"),
    ({"promotion": "always"}, "alias", "missing_required_parameter"),
    ({"start_from": "champion"}, "alias", "missing_required_parameter"),
    ({"alias": "prod"}, "alias", "invalid_alias"),
    ({"job": {**JOB, "tunesmith": {"deadline": 1_800_000_000}}}, "job.tunesmith.deadline", "invalid_value"),
    ({"data": {"file": "file-none"}}, "data.file", "file_not_found"),
    ({"job": {**JOB, "validation_file": "file-none"}}, "job.validation_file", "file_not_found"),
    ({**GATED, "gate": {"rows": {"file": "file-none"}}}, "gate.rows.file", "file_not_found"),
    ({**GATED, "gate": {"rows": {"filename": "x"}, "guards": {"old": {"file": "file-none"}}}}, OLD, "file_not_found"),
    ({"overlap": "both"}, "overlap", "invalid_value"),
    ({"name": "Nightly Run"}, "name", "invalid_value"),
    ({"every": "night"}, "every", "unknown_parameter"),
]


class TestBadInput:
    def test_what_cannot_be_a_schedule_is_refused_with_its_field(self, nights: Nights) -> None:
        told = []
        for fields, _param, _code in REFUSED:
            error = nights.post("/v1/schedules", nights.body(**fields)).json()["error"]
            told.append((fields, error["param"], error["code"]))
        assert told == REFUSED

    def test_the_same_again_finds_it_and_another_of_its_name_is_refused(self, nights: Nights) -> None:
        first = nights.create()
        assert nights.create()["id"] == first["id"]
        error = nights.post("/v1/schedules", nights.body(cron="1 3 * * *")).json()["error"]
        assert (error["code"], "PUT" in error["hint"]) == ("schedule_exists", True)

    def test_a_schedule_of_another_project_does_not_exist(self, nights: Nights) -> None:
        nights.create()
        for method, path in (("GET", ""), ("PUT", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/run")):
            body = nights.settings_body() if method == "PUT" else {}
            answer = nights.plane.request(method, f"/v1/schedules/nightly{path}", key="stranger", json=body)
            assert answer.status_code == 404, (method, path, answer.text)
        assert nights.plane.request("GET", "/v1/schedules", key="stranger").json()["data"] == []


def test_the_history_comes_in_pages(nights: Nights) -> None:
    nights.upload()
    nights.create(cron="0 * * * *")
    nights.next_night(late_by=timedelta(hours=5))
    page = nights.get("/v1/schedules/nightly/firings?limit=4")
    rest = nights.get(f"/v1/schedules/nightly/firings?limit=4&after={page['last_id']}")
    assert (page["has_more"], rest["has_more"], len(page["data"]), len(rest["data"])) == (True, False, 4, 2)
    assert nights.get("/v1/schedules")["data"][0]["last_firing"]["id"] == page["first_id"]


def test_a_keeper_that_dies_between_recording_and_deciding_leaves_work_for_the_next(nights: Nights) -> None:
    nights.upload()
    nights.create()
    ((fires_at,),) = nights.plane.sql("SELECT next_fires_at FROM schedules")
    nights.at = fires_at
    nights.plane.run(lambda database: record_due(nights.context(database)))
    assert states(nights) == ["due"]
    nights.sweep()
    assert states(nights) == ["submitted"]


def test_a_schedule_that_can_no_longer_be_read_holds_up_no_other(nights: Nights) -> None:
    nights.upload()
    nights.create(name="broken")
    nights.create()
    zone = "UPDATE schedules SET settings = jsonb_set(settings, '{timezone}', %s::jsonb) WHERE name = 'broken'"
    nights.plane.sql(zone, '"Atlantis/Capital"')
    assert nights.next_night()["state"] == "submitted"
    assert (nights.firings("broken"), nights.schedule("broken")["next_due"]) == ([], [])
    assert len(nights.get("/v1/schedules")["data"]) == 2
    nights.plane.sql(zone, '"UTC"')
    nights.sweep(after=timedelta(minutes=11))
    assert nights.firings("broken")[0]["reason"].endswith("late."), "nothing was lost by it"
    nights.plane.sql(zone, '"Atlantis/Capital"')
    nights.replace(name="broken", timezone="Asia/Tokyo")
    assert nights.schedule("broken")["next_due"]
