"""The time that leases are measured by: it passes while an API serves, and stands still while none does.

A lease may be ended when some process of the API has served for a whole lease without a gap, that lease was not renewed
meanwhile, and it is not one of many that fell silent together. All of it is read from rows: a keeper that has just
started, or slept, decides as any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.transactions import now
from tunesmith.service.leases import store

_MISSED_HEARTBEATS = 2  # a worker that misses so many is silent
_MANY_SHARE = 0.3  # of the workers that hold attempts
_MANY_WORKERS = 3


class Hold(StrEnum):
    """Why leases that have run out are not ended yet."""

    NO_STEADY_API = "no_steady_api"  # no process of the API has served for a whole lease without a gap
    MANY_SILENT = "many_silent"  # most workers fell silent at once: they get one lease more


@dataclass(frozen=True)
class LeasePolicy:
    """How long a lease lasts and how often it should be renewed."""

    lease: timedelta
    heartbeat: timedelta

    @classmethod
    def of_seconds(cls, *, lease: float, heartbeat: float) -> "LeasePolicy":
        """Both in seconds."""
        return cls(timedelta(seconds=lease), timedelta(seconds=heartbeat))


@dataclass(frozen=True)
class LeaseTime:
    """Leases that ran out before `ends_before` may be ended; None: none. `overdue` counts what the clock says."""

    ends_before: datetime | None
    overdue: int = 0
    hold: Hold | None = None


async def read(session: AsyncSession, policy: LeasePolicy) -> LeaseTime:
    """The lease time of this moment."""
    at = await now(session)
    served = await store.last_steady_beat(session, at_least_seconds=policy.lease.total_seconds())
    overdue = await store.count_overdue(session, before=at)
    many = served is not None and _many_silent(await store.newest_leases(session), served, policy)
    ends_before = None if served is None else served - policy.lease if many else served
    hold = _hold(at, served, many=many, policy=policy) if overdue else None
    return LeaseTime(ends_before=ends_before, overdue=overdue, hold=hold)


def _many_silent(newest_leases: Sequence[datetime], served: datetime, policy: LeasePolicy) -> bool:
    """Whether the workers that hold attempts fell silent together, so that the way to them may be the reason.

    A single one that is silent is no crowd: with an API that serves, it is gone.
    """
    silence = min(policy.heartbeat * _MISSED_HEARTBEATS, policy.lease)
    silent = sum(lease < served + policy.lease - silence for lease in newest_leases)
    everybody = silent == len(newest_leases) and silent > 1
    return everybody or (silent >= _MANY_WORKERS and silent > _MANY_SHARE * len(newest_leases))


def _hold(at: datetime, served: datetime | None, *, many: bool, policy: LeasePolicy) -> Hold | None:
    if served is None or at - served > policy.lease / 2:
        return Hold.NO_STEADY_API
    return Hold.MANY_SILENT if many else None
