"""What becomes of a night's result: promoted, refused, rolled back; and for how long it is kept."""

from typing import Any

import httpx2

from tests.service.nightly.nights import PROD, Nights
from tunesmith.tuning.errors import Category, Failure
from tunesmith.tuning.state import Outcome


def night(nights: Nights, rows: int) -> tuple[dict[str, Any], str]:
    """New rows, a job, a result; the firing as it is then."""
    nights.upload(rows)
    fired = nights.next_night()
    assert fired["state"] == "submitted", fired
    model = nights.train()
    return dict(nights.get(f"/v1/schedules/nightly/firings/{fired['id']}")), model


def error_of(response: httpx2.Response) -> dict[str, Any]:
    assert response.status_code == 409, response.text
    assert response.headers["x-should-retry"] == "false"
    return dict(response.json()["error"])


def test_always_promotes_each_result_in_the_name_of_the_schedule(nights: Nights) -> None:
    nights.create(alias=PROD, promotion="always")
    first, one = night(nights, 20)
    second, two = night(nights, 21)
    assert (first["state"], second["state"], second["model"], nights.alias()) == ("promoted", "promoted", two, two)
    assert (first["champion"], second["champion"]) == (None, one)
    change = nights.get(f"/v1/aliases/{PROD}/history")["data"][0]
    assert (change["model"], change["firing_id"], change["by"]) == (two, second["id"], "member")
    assert change["reason"].startswith("nightly, due 20")


def test_never_leaves_the_alias_alone(nights: Nights) -> None:
    nights.create(alias=PROD)
    firing, model = night(nights, 20)
    assert (firing["state"], firing["model"], nights.alias()) == ("trained", model, None)


def test_a_better_verdict_promotes_and_another_refuses_each_with_its_numbers(nights: Nights) -> None:
    nights.create(alias=PROD, promotion="on_verdict")
    first, one = night(nights, 20)
    assert (first["state"], nights.alias()) == ("awaiting_verdict", None)
    answer = nights.verdict(first, "better", summary="0.81, was 0.77", numbers={"exact_match": 0.81})
    assert (answer.json()["state"], nights.alias()) == ("promoted", one)
    assert answer.json()["verdict"]["numbers"] == {"exact_match": 0.81}
    assert "0.81, was 0.77" in nights.get(f"/v1/aliases/{PROD}/history")["data"][0]["reason"]
    for verdict, reason in (("not_better", "The verdict is not better."), ("inconclusive", "two rows")):
        firing, _ = night(nights, len(reason) + 20)
        summary = {"summary": reason} if verdict == "inconclusive" else {}
        refused = nights.verdict(firing, verdict, **summary).json()
        assert (refused["state"], refused["reason"], nights.alias()) == ("refused", reason, one)


def test_a_verdict_that_comes_before_the_keeper_has_looked_is_taken(nights: Nights) -> None:
    nights.create(alias=PROD, promotion="on_verdict")
    nights.upload()
    firing = nights.next_night()
    attempt = nights.claim()
    assert error_of(nights.verdict(firing, "better"))["code"] == "no_verdict_expected"
    attempt.succeed()
    assert nights.verdict(firing, "better").json()["state"] == "promoted"
    nights.sweep()
    assert nights.firings()[0]["state"] == "promoted"


def test_the_same_verdict_twice_is_one_and_another_is_refused(nights: Nights) -> None:
    nights.create(alias=PROD, promotion="on_verdict")
    firing, model = night(nights, 20)
    assert {nights.verdict(firing, "better", numbers={"n": 1}).status_code for _ in range(3)} == {200}
    assert error_of(nights.verdict(firing, "not_better"))["code"] == "no_verdict_expected"
    assert (nights.alias(), nights.get("/v1/aliases")["data"][0]["changes"]) == (model, 1)


def test_a_result_takes_the_place_only_of_the_champion_that_it_was_compared_with(nights: Nights) -> None:
    nights.create(alias=PROD, promotion="on_verdict")
    first, one = night(nights, 20)
    second, _ = night(nights, 21)
    nights.plane.request("PUT", f"/v1/aliases/{PROD}", json={"model": "tiny-llama"}).raise_for_status()
    for firing, named in ((first, {}), (second, {"champion": one})):  # the alias stood for nothing at the first
        told = nights.verdict(firing, "better", **named).json()
        assert (told["state"], told["code"], nights.alias()) == ("refused", "alias_changed", "tiny-llama")
    third, three = night(nights, 22)
    assert nights.verdict(third, "better", champion="tiny-llama").json()["state"] == "promoted"
    assert nights.alias() == three


def test_a_job_that_fails_leaves_the_champion_and_its_reason(nights: Nights) -> None:
    nights.create(alias=PROD, promotion="always")
    _, one = night(nights, 20)
    nights.upload(21)
    nights.next_night()
    failure = Failure(code="loss_is_not_finite", message="The loss became nan.", category=Category.USER_ERROR)
    nights.claim().finish(Outcome.FAILED, failure=failure)
    nights.sweep()
    firing = nights.firings()[-1]
    assert (firing["state"], firing["code"], firing["reason"]) == ("failed", failure.code, failure.message)
    assert nights.alias() == one


def test_after_a_rollback_the_next_better_night_is_promoted_over_what_was_gone_back_to(nights: Nights) -> None:
    nights.create(alias=PROD, promotion="always")
    _, one = night(nights, 20)
    night(nights, 21)
    nights.post(f"/v1/aliases/{PROD}/roll_back", {"reason": "wrong language"}).raise_for_status()
    assert nights.alias() == one
    third, three = night(nights, 22)
    assert (third["champion"], nights.alias()) == (one, three)
    nights.post(f"/v1/aliases/{PROD}/roll_back").raise_for_status()
    assert nights.alias() == one, "the night that was rolled back is not gone back to"


class TestKeeping:
    """Old results go; what something needs stays."""

    def models(self, nights: Nights) -> set[str]:
        return {model["id"] for model in nights.get("/v1/models")["data"]} - {"tiny-llama"}

    def trained(self, nights: Nights, count: int) -> list[str]:
        return [night(nights, 20 + number)[1] for number in range(count)]

    def test_only_the_newest_are_kept_and_the_bytes_of_the_others_are_let_go(self, nights: Nights) -> None:
        nights.create()
        models = self.trained(nights, 4)
        assert nights.delete_old_results() == 0, "without the rule everything is kept"
        nights.replace(keep_results=2)
        assert nights.delete_old_results() == 2
        assert self.models(nights) == set(models[2:])
        jobs = [firing["job_id"] for firing in nights.firings()]
        kept = [nights.get(f"/v1/fine_tuning/jobs/{job}/artifacts")["data"][0]["files"] for job in jobs]
        assert [bool(files) for files in kept] == [False, False, True, True]
        assert nights.plane.job(jobs[0])["fine_tuned_model"] == models[0], "the history stays"
        assert nights.delete_old_results() == 0

    def test_what_an_alias_a_job_another_model_or_a_schedule_needs_is_kept(self, nights: Nights) -> None:
        nights.create(keep_results=1)
        by_alias, by_history, by_job, by_model, by_schedule, nobodys, _newest = self.trained(nights, 7)
        for model in (by_history, by_alias):
            nights.plane.request("PUT", f"/v1/aliases/{PROD}", json={"model": model}).raise_for_status()
        running = nights.plane.create_job(model=by_job)["id"]
        nights.plane.sql("UPDATE models SET base_model = %s WHERE name = %s", by_model, _newest)
        nights.create(name="other", job={"model": by_schedule})
        assert nights.delete_old_results() == 1
        assert self.models(nights) == {by_alias, by_history, by_job, by_model, by_schedule, _newest}
        assert nobodys not in self.models(nights)
        nights.post(f"/v1/aliases/{PROD}/roll_back").raise_for_status()
        assert nights.alias() == by_history
        nights.post(f"/v1/fine_tuning/jobs/{running}/cancel").raise_for_status()
        assert nights.delete_old_results() == 1
        assert by_job not in self.models(nights)

    def test_a_result_that_waits_for_its_verdict_is_kept(self, nights: Nights) -> None:
        nights.create(keep_results=1, alias=PROD, promotion="on_verdict")
        first, one = night(nights, 20)
        night(nights, 21)
        assert nights.delete_old_results() == 0
        nights.verdict(first, "not_better")
        assert nights.delete_old_results() == 1
        assert one not in self.models(nights)
