"""How much one caller may have going on at once, in this process."""

from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import TunesmithError


@dataclass(frozen=True)
class Places:
    """How many requests a caller may have open at once, and how many more it could open now."""

    most: int
    free: int

    @property
    def headers(self) -> dict[str, str]:
        """In the words of OpenAI's API, where they are about requests of a minute."""
        return {"x-ratelimit-limit-requests": str(self.most), "x-ratelimit-remaining-requests": str(self.free)}


class TooMany(TunesmithError):
    """The caller has as many requests open as it may; each that ends makes room for one."""

    code = ErrorCode.TOO_MANY_REQUESTS
    http_status = 429
    places: Places


class Limiter:
    """Counts what is going on for each caller. `what` is the plural that a refusal names."""

    def __init__(self, most: int, *, what: str) -> None:
        self._most = most
        self._what = what
        self._open: Counter[Hashable] = Counter()

    @contextmanager
    def hold(self, caller: Hashable) -> Iterator[Places]:
        """Take a place for as long as the block lasts.

        Raises:
            TooMany: all of this caller's places are taken.
        """
        if self._open[caller] >= self._most:
            raise self._refusal()
        self._open[caller] += 1
        try:
            yield Places(self._most, free=self._most - self._open[caller])
        finally:
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]

    def _refusal(self) -> TooMany:
        error = TooMany(
            f"{self._most} {self._what} with this key are open already.",
            hint="Wait for answers before sending more, or let several jobs share one list request.",
        )
        error.places = Places(self._most, free=0)
        return error
