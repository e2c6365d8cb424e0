"""When an event is sent again, and when an endpoint is given up."""

from dataclasses import dataclass
from datetime import timedelta

# As Standard Webhooks proposes: quickly at first, then over three days.
_PAUSES = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
_SPREAD = 0.2  # each pause is shortened or lengthened by up to this share, so that retries do not come in step
GIVES_UP_AFTER = timedelta(days=3)  # of failures without a success


@dataclass(frozen=True)
class Retry:
    """What follows a try that failed."""

    pause: timedelta | None

    @classmethod
    def after(cls, tries: int, *, jitter: float) -> "Retry":
        """`tries` counts from 1; `jitter` is from 0 to 1. Without a pause it was the last one."""
        if tries > len(_PAUSES):
            return cls(None)
        return cls(_PAUSES[tries - 1] * (1 + _SPREAD * (2 * jitter - 1)))
