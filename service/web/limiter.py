"""How much one caller may have going on at once, in this process."""

from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import TunesmithError


class TooMany(TunesmithError):
    """The caller has as many requests open as it may; each that ends makes room for one."""

    code = ErrorCode.TOO_MANY_REQUESTS
    http_status = 429


class Limiter:
    """Counts what is going on for each caller. `what` is the plural that a refusal names."""

    def __init__(self, most: int, *, what: str) -> None:
        self._most = most
        self._what = what
        self._open: Counter[Hashable] = Counter()

    @contextmanager
    def hold(self, caller: Hashable) -> Iterator[None]:
        """Take a place for as long as the block lasts.

        Raises:
            TooMany: all of this caller's places are taken.
        """
        if self._open[caller] >= self._most:
            raise TooMany(
                f"{self._most} {self._what} with this key are open already.",
                hint="Wait for answers before sending more, or let several jobs share one list request.",
            )
        self._open[caller] += 1
        try:
            yield
        finally:
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]
