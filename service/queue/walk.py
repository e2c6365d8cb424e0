"""Walking the line in the order of turns, project by project and only as far as somebody looks."""

import heapq
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.queue import store
from tunesmith.service.queue.store import Lane, Waiting

_FIRST_LOOK = 8  # jobs of each project that are read at first
_NEXT_LOOK = 500  # and of one project when those did not do


async def in_turn(
    session: AsyncSession, *, is_full: Callable[[str, int], bool], passed: Collection[str] = ()
) -> AsyncIterator[Waiting]:
    """Every job that may start now, whoever is next first.

    `is_full` is asked about each project, and how many jobs it runs, whether to leave it out. Jobs with a question in
    `passed`, which may grow during the walk, are no longer read.
    """
    lanes = await store.find_lanes(session, each=_FIRST_LOOK)
    heads = [_Head.of(lane) for lane in lanes if not is_full(lane.project, lane.running)]
    entries = [head.entry() for head in heads]
    heapq.heapify(entries)
    while entries:
        head = entries[0][-1]
        waiting = head.take()
        yield waiting
        if head.is_empty and not head.has_ended:
            head.extend(await store.find_behind(session, waiting, without=passed, limit=_NEXT_LOOK))
        if head.is_empty:
            heapq.heappop(entries)
        else:
            heapq.heapreplace(entries, head.entry())


@dataclass
class _Head:
    """Where the walk stands in the line of one project."""

    running: int
    waiting: list[Waiting]  # still to come, the next one last
    taken: int = 0
    has_ended: bool = False

    @classmethod
    def of(cls, lane: Lane) -> "_Head":
        return cls(lane.running, lane.waiting[::-1], has_ended=len(lane.waiting) < _FIRST_LOOK)

    def entry(self) -> tuple[float, str, "_Head"]:
        """Turn and id, which is in no other line."""
        following = self.waiting[-1]
        return self.running + self.taken + 1 - following.aged_turns, following.job_id, self

    def take(self) -> Waiting:
        self.taken += 1
        return self.waiting.pop()

    def extend(self, more: list[Waiting]) -> None:
        self.waiting = more[::-1]
        self.has_ended = len(more) < _NEXT_LOOK

    @property
    def is_empty(self) -> bool:
        return not self.waiting
