"""Old firings are forgotten, and none that somebody still asks for."""

from tests.service.nightly.nights import PROD, Nights
from tunesmith.service.keeper.chores import prune
from tunesmith.service.schedules.retention.store import SHOWN_FIRINGS


def age(nights: Nights, *, days: int) -> None:
    nights.plane.sql(f"UPDATE firings SET due_at = due_at - interval '{days} days'")


def forget(nights: Nights) -> list[str]:
    """What is left after a keeper has pruned, by state, the oldest first."""
    nights.plane.keep(prune)
    return [firing["state"] for firing in nights.firings()]


def skip(nights: Nights, times: int) -> None:
    """So many nights on which nothing had changed, each a minute behind the one before."""
    nights.plane.sql(
        """
        INSERT INTO firings (id, schedule_id, due_at, trigger, state, not_before)
        SELECT 'firing-' || n, id, (SELECT max(due_at) FROM firings) + n * interval '1 min', 'cron', 'skipped', now()
        FROM schedules, generate_series(1, %s) n
        """,
        times,
    )


def test_what_is_older_than_the_limit_goes_and_a_page_of_history_stays(nights: Nights) -> None:
    nights.upload()
    nights.create()
    nights.next_night()
    model = nights.train()
    skip(nights, SHOWN_FIRINGS + 2)
    assert len(forget(nights)) == SHOWN_FIRINGS + 3, "nothing is old"
    age(nights, days=1000)
    assert forget(nights) == ["trained", *["skipped"] * SHOWN_FIRINGS], "its model is still there"
    assert nights.plane.request("DELETE", f"/v1/models/{model}").status_code == 200
    assert forget(nights) == ["trained", *["skipped"] * SHOWN_FIRINGS], "the next night is compared with it"
    assert nights.next_night()["state"] == "skipped", "and has brought nothing new"


def test_verdicts_and_what_still_waits_for_one_stay(nights: Nights) -> None:
    nights.upload()
    nights.create(alias=PROD, promotion="on_verdict")
    firing = nights.next_night()
    nights.train()
    assert nights.verdict(firing, "not_better").status_code == 200
    nights.upload(rows=21)
    nights.next_night()
    nights.train()
    skip(nights, SHOWN_FIRINGS)
    age(nights, days=1000)
    nights.plane.sql("UPDATE models SET name = name || '-gone' WHERE kind <> 'base'")
    left = forget(nights)
    assert left[:2] == ["refused", "awaiting_verdict"]
    assert nights.firings()[0]["verdict"]["verdict"] == "not_better"
