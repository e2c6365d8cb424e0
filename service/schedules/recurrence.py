"""When a schedule is due: cron in a time zone, through changes of its clock in both directions.

Two kinds of expression, as in Debian's cron. One that names its minutes and hours ("30 2 * * *") is due once for each
time on the wall: at the end of the gap where the clocks skip it, and the first time where they show it twice. One
whose minute or hour begins with a star ("*/30 * * * *") follows the wall: due whenever the clocks show such a time.
"""

import difflib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.values.units import plural

_FIELDS: Final = 5
_AROUND_A_CHANGE: Final = timedelta(hours=26)  # no clock has ever been set by more
_STEP: Final = timedelta(hours=6)  # within which no zone changes its clock twice
_ANY: Final = datetime(2026, 1, 1)


@dataclass(frozen=True)
class Recurrence:
    """A cron expression in a time zone."""

    cron: str
    zone: ZoneInfo

    @classmethod
    def parse(cls, cron: str, zone_name: str) -> "Recurrence":
        """Read both.

        Raises:
            InvalidRequest: the expression cannot be read or is never due, or there is no such zone.
        """
        recurrence = cls(cron, _zone(zone_name))
        if (count := len(cron.split())) != _FIELDS:
            raise _unreadable(cron, f"it has {plural(count, 'field')} and not five")
        if (why := _problem(cron)) is not None:
            raise _never_due(cron) if _reads_in_parts(cron) else _unreadable(cron, why)
        return recurrence

    def after(self, moment: datetime) -> datetime | None:
        """The first due time later than `moment`, in UTC; None if there is none within 50 years."""
        return self._next_named(moment) if self._names_its_times else self._next_on_the_wall(moment)

    def between(self, start: datetime, end: datetime) -> Iterator[datetime]:
        """Due times later than `start`, up to and with `end`."""
        due = self.after(start)
        while due is not None and due <= end:
            yield due
            due = self.after(due)

    @property
    def _names_its_times(self) -> bool:
        minute, hour = self.cron.split()[:2]
        return not minute.startswith("*") and not hour.startswith("*")

    def _next_named(self, moment: datetime) -> datetime | None:
        """Each time on the wall has one moment, in the same order. What the wall shows a second time was due before."""
        for named in CronSim(self.cron, self._wall(moment)):
            due = self._first_moment(named)
            if due > moment:
                return due
        return None

    def _next_on_the_wall(self, moment: datetime) -> datetime | None:
        """The next time on the wall, if the clock does not change before it; else from that change on."""
        while True:
            offset = self._offset(moment)
            named = next(CronSim(self.cron, (moment + offset).replace(tzinfo=None)), None)
            if named is None:
                return None
            due = named.replace(tzinfo=UTC) - offset
            change = self._next_change(moment, until=due)
            if change is None:
                return due
            moment = change - timedelta(seconds=1)
            at_change = self._due_at(change)
            if at_change is not None:
                return at_change
            moment = change

    def _due_at(self, change: datetime) -> datetime | None:
        """The moment itself, when what the clocks show then is due."""
        wall = self._wall(change)
        return change if next(CronSim(self.cron, wall - timedelta(seconds=1)), None) == wall else None

    def _next_change(self, start: datetime, *, until: datetime) -> datetime | None:
        """The first moment later than `start`, up to and with `until`, at which the clock is set."""
        offset = self._offset(start)
        while start < until:
            end = min(start + _STEP, until)
            if self._offset(end) != offset:
                return self._first_with_another(offset, start, end)
            start = end
        return None

    def _first_with_another(self, offset: timedelta, start: datetime, end: datetime) -> datetime:
        """To the second: `start` has the offset and `end` has not."""
        while end - start > timedelta(seconds=1):
            middle = start + timedelta(seconds=int((end - start).total_seconds()) // 2)
            if self._offset(middle) == offset:
                start = middle
            else:
                end = middle
        return end

    def _first_moment(self, wall: datetime) -> datetime:
        """When the clocks first show this; when they never do, the first moment after the gap."""
        moment = wall.replace(tzinfo=self.zone, fold=0).astimezone(UTC)
        if self._wall(moment) == wall:
            return moment
        before = moment - _AROUND_A_CHANGE
        return self._next_change(before, until=moment) or moment

    def _wall(self, moment: datetime) -> datetime:
        return moment.astimezone(self.zone).replace(tzinfo=None, fold=0)

    def _offset(self, moment: datetime) -> timedelta:
        return moment.astimezone(self.zone).utcoffset() or timedelta()


def jitter_of(schedule_id: str, *, most_seconds: int) -> timedelta:
    """How much later than its due times a schedule fires: always the same, and evenly spread over schedules."""
    number = int.from_bytes(hashlib.sha256(schedule_id.encode()).digest()[:8])
    return timedelta(seconds=number % (most_seconds + 1))


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise _no_such_zone(name) from None


def _no_such_zone(name: str) -> InvalidRequest:
    known = available_timezones()
    if not known:
        message = "The service knows no time zones: neither its machine nor the package tzdata has their data."
        hint = "The operator installs one of them: pip install tzdata, or the system's package of that name."
    else:
        near = difflib.get_close_matches(name, known, n=3)
        message = f"There is no time zone {name!r:.80}."
        hint = f"Did you mean {', '.join(near)}?" if near else "Write it as in Europe/Berlin, America/New_York or UTC."
    return InvalidRequest(message, code=ErrorCode.UNKNOWN_TIME_ZONE, param="timezone", hint=hint)


def _problem(cron: str) -> str | None:
    try:
        return None if next(CronSim(cron, _ANY), None) else "no day is like that"
    except CronSimError as error:
        return str(error)


def _reads_in_parts(cron: str) -> bool:
    """Whether only day and month together are wrong."""
    minute, hour, day, month, weekday = cron.split()
    parts = (f"{minute} {hour} {day} * {weekday}", f"{minute} {hour} * {month} {weekday}")
    return not any(map(_problem, parts))


def _never_due(cron: str) -> InvalidRequest:
    return InvalidRequest(
        f"{cron!r:.120} is never due: no month has such a day.",
        code=ErrorCode.CRON_NEVER_DUE,
        param="cron",
        hint="Look at day and month: a 30 February never comes.",
    )


def _unreadable(cron: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"{cron!r:.120} is no cron expression: {why}.",
        code=ErrorCode.INVALID_CRON,
        param="cron",
        hint="Write minute, hour, day of month, month and day of week, as in '30 2 * * *' or '0 3 * * mon-fri'.",
    )
