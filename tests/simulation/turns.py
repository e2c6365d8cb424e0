"""One thing at a time: several acts are under way, and each goes on only from one transaction to the next.

Nobody ever waits for a lock, so what happens in which order is the choice of whoever gives the turns, and can be
repeated. What happens inside of two transactions at the same moment is tested in `tests/races`.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.transactions import Database

_acting: "ContextVar[Act | None]" = ContextVar("acting", default=None)


class Act:
    """Something that somebody does, with a halt before its start and before each transaction."""

    def __init__(self, name: str, work: Coroutine[Any, Any, object]) -> None:
        self.name = name
        self.is_inside_transaction = False
        self._turn = asyncio.get_running_loop().create_future()
        self._is_still = asyncio.Event()
        self._task = asyncio.create_task(self._run(work))
        self._task.add_done_callback(lambda _: self._is_still.set())

    @property
    def is_over(self) -> bool:
        return self._task.done()

    async def go_on(self) -> None:
        """Up to the next halt or the end; whatever went wrong is raised here."""
        self._is_still.clear()
        self._turn.set_result(None)
        await self._is_still.wait()
        if self.is_over:
            self._task.result()

    async def halt(self) -> None:
        """Wait for the next turn."""
        self._turn = asyncio.get_running_loop().create_future()
        self._is_still.set()
        await self._turn

    async def drop(self) -> None:
        """Break it off, and wait until it has let go of its connection."""
        self._task.cancel()
        await asyncio.wait((self._task,))

    async def _run(self, work: Coroutine[Any, Any, object]) -> None:
        _acting.set(self)
        await self._turn
        await work


class SteppedDatabase(Database):
    """A database whose transactions wait for their turn."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        act = _acting.get()
        if act is None or act.is_inside_transaction:
            async with super().transaction() as session:
                yield session
            return
        await act.halt()
        act.is_inside_transaction = True
        try:
            async with super().transaction() as session:
                yield session
        finally:
            act.is_inside_transaction = False
