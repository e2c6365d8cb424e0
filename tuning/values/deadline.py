"""By when something must have ended: a moment, or a time from when it was asked for."""

import re
from datetime import UTC, datetime, timedelta

LATEST = 253_402_300_799  # the last second that a date has room for
SPAN = r"[1-9]\d{0,4}[mhd]"
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


def moment_of(deadline: int | str, *, asked_at: datetime) -> datetime:
    """The moment that Unix seconds name, or `90m`, `6h` or `2d` after `asked_at`.

    Raises:
        ValueError: the text is no such span.
    """
    if isinstance(deadline, int):
        return datetime.fromtimestamp(deadline, UTC)
    if not re.fullmatch(SPAN, deadline):
        raise ValueError(f"{deadline!r:.40} is no span of time such as 90m, 6h or 2d")
    return asked_at + int(deadline[:-1]) * _UNITS[deadline[-1]]
