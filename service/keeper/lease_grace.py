"""When a lease that has run out may be ended: not while its worker may have been unable to renew it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

log = structlog.get_logger(__name__)


@dataclass
class LeaseGrace:
    """Holds back the end of leases for one lease time after anything that kept workers from renewing them.

    `clock` is monotonic. A database that was restarted between two sweeps is recognised by its own start time.
    """

    lease_seconds: float
    expected_gap_seconds: float
    clock: Callable[[], float] = time.monotonic
    _held_until: float = field(init=False)
    _seen_at: float = field(init=False)

    def __post_init__(self) -> None:
        self._seen_at = self.clock()
        self._held_until = self._seen_at + self.lease_seconds  # a keeper that starts knows nothing of the time before

    def saw_database(self, *, up_seconds: float) -> None:
        """The database answered; it has been up for so long."""
        moment = self.clock()
        blind = moment - self._seen_at > 3 * self.expected_gap_seconds
        if blind:
            log.warning("keeper.was_blind", seconds=round(moment - self._seen_at, 1))
        renewable_since = moment if blind else moment - up_seconds
        self._held_until = max(self._held_until, renewable_since + self.lease_seconds)
        self._seen_at = moment

    def missed_database(self) -> None:
        """The database did not answer: when it is back, workers get the time to renew."""
        self._held_until = max(self._held_until, self.clock() + self.lease_seconds)

    @property
    def released(self) -> bool:
        """Whether a lease that has run out may be ended."""
        return self.clock() >= self._held_until
