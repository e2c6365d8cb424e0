"""Many small questions as few queries: what is asked while an answer is on its way goes out together."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from itertools import islice
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")

_LARGEST = 1000  # keys of one query


class Batches(Generic[Key, Found]):
    """Asks one query at a time. A key's answer is never older than the moment it was asked for."""

    def __init__(self, ask: Callable[[Sequence[Key]], Awaitable[Mapping[Key, Found]]]) -> None:
        self._ask = ask
        self._waiting: dict[Key, asyncio.Future[Found | None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def get(self, key: Key) -> Found | None:
        """What the query found for this key; None where it found nothing. Raises what the query raised."""
        answer = self._waiting.get(key)
        if answer is None:
            answer = self._waiting[key] = asyncio.get_running_loop().create_future()
        if self._task is None:
            # Not in the context of the first who asks: its request id would be in the log lines of all.
            self._task = asyncio.create_task(self._run(), context=contextvars.Context())
        return await asyncio.shield(answer)

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._ask_some()
        finally:
            self._task = None

    async def _ask_some(self) -> None:
        asked = {key: self._waiting.pop(key) for key in list(islice(self._waiting, _LARGEST))}
        try:
            found = await self._ask(list(asked))
            answers = {key: found.get(key) for key in asked}
        except Exception as error:
            for answer in asked.values():
                answer.set_exception(error)
                answer.exception()  # whoever asked may have gone: then nobody else would look at it
        else:
            for key, answer in asked.items():
                answer.set_result(answers[key])
