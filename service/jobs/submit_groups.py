"""Create requests under load: those that come during one transaction are recorded together in the next (group commit).

Most of what a submit costs is statements, which a group of one project shares. A request that comes alone waits for
nobody. Behind a group of several there is a pause, in which those that it answered may come with their next request.
Each project has a line of its own, so that one that is held up holds up no other.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from tunesmith.faults import Point, fault_point
from tunesmith.service.database.tables import Job
from tunesmith.service.database.transactions import Database, is_away
from tunesmith.service.jobs.submit import Submission, submit_all
from tunesmith.tuning.errors import TunesmithError

_MOST = 32  # in a group
_PAUSE_SECONDS = 0.005  # a third of what recording a group takes


class SubmitGroups:
    """One of a process."""

    def __init__(self, database: Database, *, pause_seconds: float = _PAUSE_SECONDS) -> None:
        self._database = database
        self._pause_seconds = pause_seconds
        self._waiting: dict[str, deque[_Asked]] = {}  # by project
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def submit(self, submission: Submission) -> Job:
        """Record the job, or find the one that an earlier copy of the request made. It is stored when this returns.

        Raises:
            InvalidRequest: with the field that must change.
            DoesNotFit: the method is forced and no machine known here could ever do it.
            LimitReached: the project has as many jobs in line as it may.
            Forbidden: it stores more than it may, or the priority takes an admin.
        """
        asked = _Asked(submission, asyncio.get_running_loop().create_future())
        project = submission.caller.project
        self._waiting.setdefault(project, deque()).append(asked)
        if project not in self._tasks:
            self._tasks[project] = asyncio.create_task(self._work(project), context=contextvars.Context())
        return await asked.answer

    async def _work(self, project: str) -> None:
        waiting = self._waiting[project]
        group: list[_Asked] = []
        try:
            while group := _next_group(waiting):
                await self._answer(group)
                if len(group) > 1 and len(waiting) < _MOST:
                    await asyncio.sleep(self._pause_seconds)
        finally:
            del self._waiting[project], self._tasks[project]
            for asked in (*group, *waiting):
                asked.answer.cancel()

    async def _answer(self, group: Sequence["_Asked"]) -> None:
        try:
            outcomes = await self._recorded([asked.submission for asked in group])
        except _OneByOne:
            for asked in group:
                await self._answer([asked])
            return
        except Exception as error:  # each request's own, to be told as if it had come alone
            outcomes = [error] * len(group)
        for asked, outcome in zip(group, outcomes, strict=True):
            asked.tell(outcome)

    async def _recorded(self, submissions: Sequence[Submission]) -> list[Job | Exception]:
        async with self._database.transaction() as session:
            try:
                outcomes: list[Job | TunesmithError] = await submit_all(session, submissions)
            except Exception as error:
                if len(submissions) == 1 or is_away(error):
                    raise
                raise _OneByOne from error
            fault_point(Point.BEFORE_COMMIT)
        fault_point(Point.AFTER_COMMIT)
        return [*outcomes]


class _Asked(NamedTuple):
    submission: Submission
    answer: "asyncio.Future[Job]"

    def tell(self, outcome: Job | Exception) -> None:
        if self.answer.done():  # whoever asked has gone
            return
        if isinstance(outcome, Exception):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


class _OneByOne(Exception):
    """Something went wrong with a group before its commit: whose fault it was shows when each is alone."""


def _next_group(waiting: deque[_Asked]) -> list[_Asked]:
    """The next that may go together: no two with the same idempotency key, and a retry alone."""
    group: list[_Asked] = []
    keys: set[str] = set()
    while waiting and len(group) < _MOST:
        submission = waiting[0].submission
        if submission.idempotency_key in keys or (group and submission.is_retry):
            break
        group.append(waiting.popleft())
        if submission.is_retry:
            break
        if submission.idempotency_key is not None:
            keys.add(submission.idempotency_key)
    return group
