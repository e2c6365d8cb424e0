"""An engine that runs elsewhere and is looked after by others: it answers for the names that it lists, and no more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import structlog

from tunesmith.tuning.errors import Unserved, brief
from tunesmith.tuning.inference_messages import Doing, ServedModel
from tunesmith.tuning.values.json_objects import Json
from tunesmith.worker.inference.loaded import Loaded, Tell

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 5.0


class EngineElsewhere:
    """Reached by a URL. An adapter may be listed by the name of its model here, or as `adapter-` and its digest."""

    gave_way = False

    def __init__(
        self, url: str, *, key: str | None, silence_seconds: float, look_seconds: float = _LOOK_SECONDS
    ) -> None:
        self._url = url
        self._look_seconds = look_seconds
        self._names: tuple[str, ...] = ()
        self._is_closed = False
        self._client = httpx2.AsyncClient(
            base_url=url.rstrip("/").removesuffix("/v1"),
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(silence_seconds, connect=5.0, pool=None),
            trust_env=False,
        )

    def doing(self) -> Doing:
        """In one word, for whoever chooses among inference workers."""
        return "draining" if self._is_closed or not self._names else "serving"

    def bases(self) -> tuple[str, ...]:
        """Not known."""
        return ()

    def names(self) -> tuple[str, ...]:
        """All that it lists."""
        return self._names

    @asynccontextmanager
    async def using(self, model: ServedModel, tell: Tell) -> AsyncIterator[Loaded]:
        """It has the model, or not.

        Raises:
            Unserved: it lists no such name.
        """
        wanted = (model.name, *((f"adapter-{model.adapter.digest}",) if model.adapter else ()))
        if not set(wanted) & set(self._names):
            tell("the engine is asked what it serves")
            await self._look()
        for name in wanted:
            if name in self._names:
                yield Loaded(self, name)
                return
        raise Unserved(f"The engine at {self._url} does not serve {model.name!r}.", retry_after_seconds=30)

    @asynccontextmanager
    async def ask(self, path: str, body: Json) -> AsyncIterator[httpx2.Response]:
        """Pass a request on; the answer streams."""
        async with self._client.stream("POST", f"/v1/{path}", json=body) as response:
            yield response

    async def watch(self) -> None:
        """Look every few seconds what it serves."""
        while not self._is_closed:
            await self._look()
            await asyncio.sleep(self._look_seconds)

    async def close(self) -> None:
        """Ask it nothing more."""
        self._is_closed = True
        await self._client.aclose()

    async def _look(self) -> None:
        try:
            listed = (await self._client.get("/v1/models", timeout=5.0)).raise_for_status().json()["data"]
            self._names = tuple(str(model["id"]) for model in listed)
        except Exception as error:  # whatever it was: nobody else looks what it serves
            log.warning("engine.not_reached", url=self._url, reason=brief(error))
            self._names = ()
