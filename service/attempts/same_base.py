"""A project's turn, given to the job of its line that needs no other base than the worker used last."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.attempts.choice import Choice, Chooser
from tunesmith.service.queue import store as queue
from tunesmith.service.queue.store import Near, Waiting

LOOK_AHEAD: Final = 20  # jobs of a project's line, with the one whose turn it is
LONGEST_PASSED_OVER: Final = timedelta(minutes=15)
"""Who could have started so long ago is passed over no more."""

_MOST_ASKED = 3  # times that the planner is asked about a job on that base before the one in turn is taken


@dataclass(frozen=True)
class Offer:
    """A job that fits the machine, and which jobs ahead of it in its project's line it passes over."""

    job_id: str
    choice: Choice
    passed_over: tuple[str, ...] = ()


async def offers(
    session: AsyncSession, first: Waiting, choice: Choice, *, last_base: str | None, chooser: Chooser
) -> AsyncIterator[Offer]:
    """What to start in this turn, the best first; the last is the job whose turn it is.

    The project and the priority are those of the job in turn, so nobody else's turn comes later for it.
    """
    if last_base is not None:
        near = await queue.find_near(session, first, without=chooser.refused, limit=LOOK_AHEAD)
        for other, passed_over in _on(last_base, near):
            if (fits := await chooser.choose(other)) is not None:
                yield Offer(other.job_id, fits, passed_over)
    yield Offer(first.job_id, choice)


def _on(base: str, near: list[Near]) -> Iterator[tuple[Waiting, tuple[str, ...]]]:
    """The jobs on the base behind those of others, as long as none of these has waited too long."""
    passed_over: list[str] = []
    asked = 0
    for one in near:
        if one.base_digest == base and not passed_over:
            return  # it is in turn as it is
        if one.base_digest == base and one.priority == near[0].priority:
            yield one.waiting, tuple(passed_over)
            asked += 1
        elif one.ready_for > LONGEST_PASSED_OVER:
            return
        else:
            passed_over.append(one.waiting.job_id)
        if asked == _MOST_ASKED:
            return
