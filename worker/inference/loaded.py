"""What an answer is asked of: an engine, and the name that the model has in it."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import httpx2

from tunesmith.tuning.inference_messages import Doing, ServedModel
from tunesmith.tuning.values.json_objects import Json

Tell = Callable[[str], None]


class Asked(Protocol):
    """An engine that answers over HTTP."""

    gave_way: bool

    def ask(self, path: str, body: Json) -> AbstractAsyncContextManager[httpx2.Response]:
        """Pass a request on; the answer streams."""
        ...


@dataclass(frozen=True)
class Loaded:
    """An engine that has what was asked for, under this name."""

    engine: Asked
    name: str
    reload: Callable[[], Awaitable[None]] | None = None  # for an adapter that the engine has dropped by itself


class Source(Protocol):
    """Engines of this host, or one elsewhere."""

    def doing(self) -> Doing:
        """In one word, for whoever chooses among inference workers."""
        ...

    def bases(self) -> tuple[str, ...]:
        """Digests of the bases in memory."""
        ...

    def names(self) -> tuple[str, ...] | None:
        """All that can be asked for; None: whatever is fetched."""
        ...

    def using(self, model: ServedModel, tell: Tell) -> AbstractAsyncContextManager[Loaded]:
        """Have the model in memory until the block ends."""
        ...

    async def watch(self) -> None:
        """Look after the engines until they are closed."""

    async def close(self) -> None:
        """End everything for good."""
