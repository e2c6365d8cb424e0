"""An answer whose client wants to hear what it waits for: comments of the event stream, until the answer begins."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from tunesmith.service.inference import answers
from tunesmith.service.inference.gateways import Begun, Tell
from tunesmith.tuning.errors import TunesmithError


class ToldWaiting:
    """A question under way. An answer that begins before anything is told is as any other."""

    def __init__(self, ask: Callable[[Tell], Awaitable[Begun]]) -> None:
        self._heard: asyncio.Queue[str | None] = asyncio.Queue()
        self._asking = asyncio.ensure_future(ask(self._heard.put_nowait))
        self._asking.add_done_callback(lambda _: self._heard.put_nowait(None))

    async def first(self) -> str | Begun:
        """What the answer waits for, or its beginning, whichever comes first.

        Raises:
            TunesmithError: nobody answers.
        """
        try:
            heard = await self._heard.get()
        except asyncio.CancelledError:
            self._asking.cancel()
            raise
        return await self._asking if heard is None else heard

    async def events(
        self, first: str, *, go_on: Callable[[Begun], AsyncGenerator[bytes, None]]
    ) -> AsyncGenerator[bytes, None]:
        """What is waited for, as often as it is said, then the answer; a refusal is its last event."""
        heard: str | None = first
        try:
            while heard is not None:
                yield f": waiting: {' '.join(heard.split())}\n\n".encode()
                heard = await self._heard.get()
            begun = await self._asking
            if begun.head.status != 200:
                raise await answers.refused(begun)
            async for event in go_on(begun):
                yield event
        except TunesmithError as refusal:
            yield answers.error_event(refusal)
        finally:
            self._asking.cancel()
