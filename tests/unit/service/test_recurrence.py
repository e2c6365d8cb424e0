"""Due times against a walk over every minute, in zones that set their clocks in all the ways there are."""

import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tunesmith.service.schedules.recurrence import Recurrence, jitter_of
from tunesmith.tuning.errors import InvalidRequest

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",
    "America/Santiago",  # at midnight
    "America/Havana",  # at midnight too, and back at one
    "Australia/Lord_Howe",  # by half an hour
    "Antarctica/Troll",  # by two hours
    "Asia/Kathmandu",
    "Africa/Casablanca",  # around Ramadan
    "Pacific/Apia",
)
CHANGES = (  # moments around which clocks were set
    datetime(2026, 3, 29, 1, tzinfo=UTC),
    datetime(2026, 10, 25, 1, tzinfo=UTC),
    datetime(2026, 3, 8, 7, tzinfo=UTC),
    datetime(2026, 11, 1, 6, tzinfo=UTC),
    datetime(2026, 4, 5, 3, tzinfo=UTC),
    datetime(2026, 9, 6, 4, tzinfo=UTC),
    datetime(2026, 10, 3, 15, tzinfo=UTC),
    datetime(2026, 2, 15, 2, tzinfo=UTC),
    datetime(2011, 12, 30, 10, tzinfo=UTC),  # Apia left out a day
    datetime(2026, 6, 1, tzinfo=UTC),
)
MINUTES = ("0", "30", "15,45", "*", "*/20", "5-59/10", "59", "1")
HOURS = ("0", "2", "1,3", "23", "*", "*/2", "0-4", "12")
DAYS = ("* * *", "* * sun", "1,15 * *", "29 3 *", "* 3,10 *", "L * *")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def due_times(cron: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    return list(Recurrence.parse(cron, zone).between(start, end))


def field(text: str, values: range) -> set[int]:
    """One field of cron, read in the plainest way."""
    found: set[int] = set()
    for part in text.split(","):
        body, _, step = part.partition("/")
        first, _, last = body.partition("-")
        span = values if body == "*" else range(int(first), int(last or first) + 1)
        found |= {value for place, value in enumerate(span) if place % int(step or 1) == 0}
    return found


def is_due(cron: str, wall: datetime) -> bool:
    minute, hour, day, month, weekday = cron.split()
    is_last = (wall + timedelta(days=1)).month != wall.month
    return (
        wall.minute in field(minute, range(60))
        and wall.hour in field(hour, range(24))
        and wall.month in field(month, range(1, 13))
        and (is_last if day == "L" else wall.day in field(day, range(1, 32)))
        and (weekday == "*" or wall.isoweekday() == 7)
    )


def minutes(start: datetime, end: datetime) -> Iterator[datetime]:
    moment = start + timedelta(minutes=1)
    while moment <= end:
        yield moment
        moment += timedelta(minutes=1)


def walked(cron: str, zone: ZoneInfo, start: datetime, end: datetime) -> list[datetime]:
    """Every minute looked at, as somebody would who watches the clock on the wall."""
    if cron.startswith("*") or cron.split()[1].startswith("*"):
        return [m for m in minutes(start, end) if is_due(cron, m.astimezone(zone).replace(tzinfo=None, fold=0))]
    found: list[datetime] = []
    shown: set[datetime] = set()
    before = start - timedelta(days=2)
    previous = before.astimezone(zone).replace(tzinfo=None, fold=0)
    for moment in minutes(before, end):
        wall = moment.astimezone(zone).replace(tzinfo=None, fold=0)
        new = {wall} if wall not in shown else set()
        new |= set(minutes(previous, wall)) if wall > previous else set()  # those that the clocks skipped come now
        shown |= new
        previous = max(previous, wall)
        if any(is_due(cron, one) for one in new):
            found.append(moment)
    return [moment for moment in found if moment > start]


@given(
    minute=st.sampled_from(MINUTES),
    hour=st.sampled_from(HOURS),
    days=st.sampled_from(DAYS),
    zone=st.sampled_from(ZONES),
    change=st.sampled_from(CHANGES),
    minutes_before=st.integers(0, 2000),
)
@example("0", "*/2", "* * *", "Australia/Lord_Howe", CHANGES[4], 1500)
@example("30", "2", "* * *", "Europe/Berlin", CHANGES[0], 600)
@example("30", "2", "* * *", "Europe/Berlin", CHANGES[1], -15)
@example("0", "12", "* * *", "Pacific/Apia", CHANGES[8], 60)
@settings(max_examples=40, deadline=None)
def test_due_times_are_those_of_a_walk_over_every_minute(
    minute: str, hour: str, days: str, zone: str, change: datetime, minutes_before: int
) -> None:
    cron = f"{minute} {hour} {days}"
    start = change - timedelta(minutes=minutes_before)
    end = start + timedelta(days=3)
    assert due_times(cron, zone, start, end) == walked(cron, ZoneInfo(zone), start, end)


@given(
    cron=st.sampled_from(("0 3 * * *", "*/15 * * * *", "30 2 * * *", "0 */6 * * *", "15 1,2 * * *")),
    zone=st.sampled_from(ZONES),
    year=st.integers(2024, 2037),
    seconds=st.integers(0, 365 * 86400),
)
@settings(max_examples=60, deadline=None)
def test_the_next_due_time_does_not_depend_on_where_the_search_began(
    cron: str, zone: str, year: int, seconds: int
) -> None:
    recurrence = Recurrence.parse(cron, zone)
    start = datetime(year, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    due = recurrence.after(start)
    assert due is not None
    assert due > start
    assert recurrence.after(due - timedelta(seconds=1)) == due
    assert recurrence.after(start + (due - start) / 2) == due


@pytest.mark.parametrize("zone", ZONES)
def test_a_nightly_schedule_is_due_once_for_every_date_of_a_year(zone: str) -> None:
    start = at("2026-01-01T00:00+00:00").astimezone(ZoneInfo(zone)).replace(hour=0, minute=0)
    for cron in ("30 2 * * *", "0 0 * * *"):
        found = due_times(cron, zone, start.astimezone(UTC) - timedelta(minutes=1), at("2027-01-02T00:00+00:00"))
        dates = [moment.astimezone(ZoneInfo(zone)).date() for moment in found]
        assert len(dates) == len(set(dates)) >= 365
        assert dates == [dates[0] + timedelta(days=number) for number in range(len(dates))]


def test_a_time_that_the_clocks_skip_is_due_at_the_end_of_the_gap() -> None:
    found = due_times("30 2 * * *", "Europe/Berlin", at("2026-03-28T12:00+00:00"), at("2026-03-30T12:00+00:00"))
    assert found == [at("2026-03-29T03:00+02:00"), at("2026-03-30T02:30+02:00")]
    hourly = due_times("*/30 * * * *", "Europe/Berlin", at("2026-03-29T00:00+00:00"), at("2026-03-29T02:00+00:00"))
    assert [f"{moment.astimezone(ZoneInfo('Europe/Berlin')):%H:%M}" for moment in hourly] == [
        "01:30",
        "03:00",
        "03:30",
        "04:00",
    ]


def test_a_time_that_comes_twice_is_due_the_first_time_and_a_starred_one_both_times() -> None:
    start, end = at("2026-10-24T12:00+00:00"), at("2026-10-26T12:00+00:00")
    found = due_times("30 2 * * *", "Europe/Berlin", start, end)
    assert found == [at("2026-10-25T02:30+02:00"), at("2026-10-26T02:30+01:00")]
    between = due_times("30 * * * *", "Europe/Berlin", at("2026-10-25T00:00+00:00"), at("2026-10-25T02:00+00:00"))
    assert between == [at("2026-10-25T02:30+02:00"), at("2026-10-25T02:30+01:00")]


@pytest.mark.parametrize(
    ("cron", "zone", "param", "code"),
    [
        ("0 0 30 2 *", "UTC", "cron", "cron_never_due"),
        ("0 0 31 2,4 *", "UTC", "cron", "cron_never_due"),
        ("0 0 * 2 mon#5,tue#6", "UTC", "cron", "invalid_cron"),
        ("@daily", "UTC", "cron", "invalid_cron"),
        ("0 0 * * * *", "UTC", "cron", "invalid_cron"),
        ("61 0 * * *", "UTC", "cron", "invalid_cron"),
        ("*/0 * * * *", "UTC", "cron", "invalid_cron"),
        ("", "UTC", "cron", "invalid_cron"),
        ("0 3 * * *", "Europe/Berln", "timezone", "unknown_time_zone"),
        ("0 3 * * *", "../../etc/passwd", "timezone", "unknown_time_zone"),
        ("0 3 * * *", "", "timezone", "unknown_time_zone"),
        ("0 3 * * *", "posix\0", "timezone", "unknown_time_zone"),
    ],
)
def test_a_cron_or_zone_that_means_nothing_is_refused_by_name(cron: str, zone: str, param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Recurrence.parse(cron, zone)
    assert (refused.value.param, refused.value.code) == (param, code)
    assert refused.value.hint


def test_a_zone_that_is_nearly_one_is_named() -> None:
    with pytest.raises(InvalidRequest) as refused:
        Recurrence.parse("0 3 * * *", "Europe/Berln")
    assert "Europe/Berlin" in str(refused.value.hint)


def test_a_machine_without_time_zones_says_so_and_does_not_blame_the_name() -> None:
    zoneinfo.reset_tzpath(to=())
    try:
        if zoneinfo.available_timezones():
            pytest.skip("the package tzdata is installed, so no machine is without")
        with pytest.raises(InvalidRequest) as refused:
            Recurrence.parse("0 3 * * *", "Pacific/Kiritimati")
        assert refused.value.code == "unknown_time_zone"
        assert "tzdata" in str(refused.value.hint)
    finally:
        zoneinfo.reset_tzpath()


def test_jitter_is_the_same_every_time_and_spread_over_schedules() -> None:
    delays = [jitter_of(f"sched-{number}", most_seconds=600) for number in range(1000)]
    assert delays == [jitter_of(f"sched-{number}", most_seconds=600) for number in range(1000)]
    assert timedelta() <= min(delays) < timedelta(seconds=30)
    assert timedelta(seconds=570) < max(delays) <= timedelta(seconds=600)
    assert jitter_of("sched-1", most_seconds=0) == timedelta()
