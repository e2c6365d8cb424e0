"""What follows when a firing cannot be decided: another try where that may help, else an end with the reason."""

from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any, TypeVar

import structlog

from tunesmith.service.database.tables import Firing
from tunesmith.service.database.transactions import is_away
from tunesmith.service.schedules import store
from tunesmith.service.schedules.context import ScheduleContext
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import LimitReached, TunesmithError
from tunesmith.tuning.words import UNDECIDED, FiringState

log = structlog.get_logger(__name__)

T = TypeVar("T")
_MOST_TRIES = 8
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=30), timedelta(minutes=15)


class DownloadFailed(TunesmithError):
    """Nothing usable came. `may_pass` when another try may do better."""

    code = ErrorCode.DOWNLOAD_FAILED
    http_status = 502

    def __init__(self, message: str, *, may_pass: bool) -> None:
        super().__init__(message, param="data.url", hint="See whether the address answers, then run the schedule.")
        self.may_pass = may_pass


async def guarded(context: ScheduleContext, firing_id: str, work: Callable[[str], Coroutine[Any, Any, T]]) -> T | None:
    """Do the work on a firing; an error of its is written down there. Only an absent database is the caller's."""
    try:
        return await work(firing_id)
    except TunesmithError as error:
        await _note(context, firing_id, error)
    except Exception as error:
        if is_away(error):
            raise
        log.exception("schedule.firing_failed", firing=firing_id)
        await _note(context, firing_id, TunesmithError(f"A fault of the service: {type(error).__name__}."))
    return None


def end(firing: Firing, state: FiringState, *, at: datetime, reason: str | None, code: str | None = None) -> None:
    """The firing is over."""
    firing.state, firing.reason, firing.code = state, reason, code
    firing.decided_at = firing.decided_at or at
    firing.ended_at = at


async def _note(context: ScheduleContext, firing_id: str, error: TunesmithError) -> None:
    async with context.database.transaction() as session:
        at = await context.clock(session)
        firing = await store.lock_firing(session, firing_id)
        if firing.state not in UNDECIDED:
            return
        firing.tries += 1
        text = f"{error.message} {error.hint or ''}".strip()
        if may_pass(error) and firing.tries < _MOST_TRIES:
            firing.code, firing.reason = error.code, text
            firing.not_before = at + min(_FIRST_PAUSE * 2 ** (firing.tries - 1), _LONGEST_PAUSE)
        else:
            end(firing, FiringState.FAILED, at=at, reason=text, code=error.code)
        log.info("schedule.firing_not_decided", firing=firing_id, state=firing.state, code=error.code)


def may_pass(error: TunesmithError) -> bool:
    """Whether another try may do better."""
    if isinstance(error, DownloadFailed):
        return error.may_pass
    return isinstance(error, LimitReached) or error.http_status == 503 or error.code == ErrorCode.INTERNAL_ERROR
