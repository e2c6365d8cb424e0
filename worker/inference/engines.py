"""Which engines run on this host: one to a base, as many as the slot's memory holds, none while a job has the slot."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Unserved
from tunesmith.tuning.inference_messages import Doing, ModelFiles, ServedModel
from tunesmith.worker.inference.engine_kinds import EngineKind
from tunesmith.worker.inference.engine_process import Engine, begin
from tunesmith.worker.inference.engine_sandbox import EngineSandbox
from tunesmith.worker.inference.loaded import Loaded, Tell
from tunesmith.worker.inference.model_files import ModelFolders
from tunesmith.worker.inference.slot_hold import HeldSlot, SlotHold

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0  # between two looks that fail: of the seconds that a job gives the engines to leave
_SURPLUS_SECONDS = 60.0
_PREEMPTED_SECONDS = 15.0  # after which clients are told to ask again


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Times in seconds, see `InferenceSettings`."""

    grace: float
    idle: float
    start: float
    silence: float


class Engines:
    """Call `watch` for as long as they may run."""

    def __init__(
        self,
        *,
        kind: EngineKind,
        folders: ModelFolders,
        slot: SlotHold,
        mark: Path,
        terms: Terms,
        sandbox: EngineSandbox | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._kind, self._folders, self._slot, self._mark, self._terms = kind, folders, slot, mark, terms
        self._sandbox, self._changed = sandbox, changed
        self._running: dict[str, Engine] = {}  # by the digest of their base
        self._starting = asyncio.Lock()  # one loads at a time: each may take the memory that the other counted on
        self._tasks: set[asyncio.Task[Any]] = set()  # starts and ends that nobody's leaving may break off
        self._is_leaving = False
        self._is_closed = False

    def doing(self) -> Doing:
        """In one word, for whoever chooses among inference workers."""
        if self._is_closed:
            return "draining"
        if self._is_leaving or self._slot.is_taken_by_training():
            return "training"
        return "serving" if self._running else "ready"

    def bases(self) -> tuple[str, ...]:
        """Digests of the bases in memory."""
        return tuple(self._running)

    def names(self) -> None:
        """Whatever is asked for is fetched."""

    @asynccontextmanager
    async def using(self, model: ServedModel, tell: Tell) -> AsyncIterator[Loaded]:
        """Have the model in memory and nothing of it dropped until the block ends. `tell` hears what is waited for.

        Raises:
            Unserved: not now, with the reason.
            InvalidRequest: the engine refuses the adapter.
            NotFound: the model was deleted meanwhile.
        """
        if (adapter := model.adapter) is None:
            engine = await self._with_base(model.base, tell)
            with engine.answering(None):
                yield Loaded(engine, engine.name)
            return
        with self._folders.wanted(adapter):
            tell(f"the adapter {model.name} is looked at")
            folder = await self._folders.adapter(adapter)
            engine = await self._with_base(model.base, tell)
            name = f"adapter-{adapter.digest}"
            with engine.answering(None):  # or it could end before the adapter is in it
                tell(f"the adapter {model.name} is loaded")
                await engine.load(name, folder)
                with engine.answering(name):
                    yield Loaded(engine, name, partial(engine.load, name, folder, is_dropped=True))

    async def watch(self) -> None:
        """Give way to training, bury what has ended, and give back memory that nobody has used for long."""
        pause_seconds = _LOOK_SECONDS
        while not self._is_closed:
            await asyncio.sleep(pause_seconds)
            try:
                await self._look()
                pause_seconds = _LOOK_SECONDS
            except Exception:  # whatever it was: nobody else gives the slot back to a job that waits for it
                log.exception("engines.look_failed")
                pause_seconds = min(pause_seconds * 2, _LONGEST_PAUSE_SECONDS)

    async def leave(self) -> None:
        """Let answers under way end within the grace, then end every engine and give the slot back."""
        self._is_leaving = True
        self._changed()
        log.info("engines.leave", engines=len(self._running))
        try:
            await self._until_idle(self._terms.grace)
            for engine in self._running.values():
                engine.gave_way = True
            await asyncio.gather(*map(self._end, list(self._running)))
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._slot.release()
        finally:
            self._is_leaving = False
            self._changed()

    async def close(self) -> None:
        """End everything for good."""
        self._is_closed = True
        await self.leave()

    async def tidy(self, *, every_seconds: float = _SURPLUS_SECONDS) -> None:
        """Drop surplus adapters now and then, until closed."""
        while not self._is_closed:
            await asyncio.sleep(every_seconds)
            try:
                await self.drop_surplus_adapters()
            except Exception:  # whatever it was: adapters would fill the disk
                log.exception("engines.adapters_not_dropped")

    async def drop_surplus_adapters(self) -> None:
        """Delete adapters from the disk that were not used for long, and from engines before."""
        for digest in await self._folders.surplus():
            name = f"adapter-{digest}"
            if not any(engine.uses(name) for engine in self._running.values()):
                dropped = [await engine.unload(name) for engine in list(self._running.values())]
                if all(dropped):
                    await self._folders.drop_adapter(digest)

    async def _look(self) -> None:
        if self._slot.is_wanted():
            await self.leave()
        for digest, engine in list(self._running.items()):
            if not engine.is_alive:
                log.warning("engine.ended", engine=engine.name)
                await self._end(digest)
            elif engine.is_ready and engine.is_idle and time.monotonic() - engine.last_used_at > self._terms.idle:
                await self._end(digest)
        if not self._running and not self._starting.locked():
            self._slot.release()

    async def _with_base(self, base: ModelFiles, tell: Tell) -> Engine:
        digest = base.digest
        if engine := self._alive(digest):
            return engine
        self._check_may_start()
        tell(f"the base {base.name} is fetched")
        folder = await self._folders.base(base)
        tell(f"the base {base.name} is loaded")
        # In a task of its own: whoever asked first may go away, and others wait for the same.
        starting = asyncio.create_task(self._start_in_turn(base, folder))
        self._tasks.add(starting)
        starting.add_done_callback(self._tasks.discard)
        starting.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(starting)

    async def _start_in_turn(self, base: ModelFiles, folder: Path) -> Engine:
        async with self._starting:
            if engine := self._alive(base.digest):
                return engine
            await self._end(base.digest)  # one that has died since `watch` looked: what it left is ours to clear
            self._check_may_start()
            return await self._start(base, folder)

    async def _start(self, base: ModelFiles, folder: Path) -> Engine:
        digest = base.digest
        held = self._take_slot()
        needed = self._kind.memory_bytes(sum(file.bytes for file in base.files), held.hardware)
        await self._make_room(needed, held)
        held = self._take_slot()  # meanwhile it may have been given back
        engine = begin(
            self._kind,
            folder,
            name=f"base-{digest}",
            mark=self._mark,
            locks=held.descriptors,
            hardware=held.hardware,
            silence_seconds=self._terms.silence,
            memory_bytes=needed,
            sandbox=self._sandbox,
        )
        self._running[digest] = engine
        try:
            await engine.wait_until_ready(self._terms.start)
        except BaseException:
            gave_way = engine.gave_way or self._is_leaving
            await self._end(digest)
            if gave_way:
                raise _training_first() from None
            raise
        self._changed()
        return engine

    async def _make_room(self, needed_bytes: int, held: HeldSlot) -> None:
        """End bases that nothing asks, the one of the longest ago first, until there is room or none is left."""
        deadline = time.monotonic() + self._terms.start
        while self._running and needed_bytes > held.memory_bytes - sum(
            engine.memory_bytes for engine in self._running.values()
        ):
            idle = [digest for digest, engine in self._running.items() if engine.is_idle]
            if idle:
                await self._end(min(idle, key=lambda digest: self._running[digest].last_used_at))
            elif time.monotonic() > deadline:
                raise Unserved("Other models answer here, and there is no memory for one more.")
            else:
                await asyncio.sleep(_LOOK_SECONDS)
                self._check_may_start()

    async def _end(self, digest: str) -> None:
        if engine := self._running.pop(digest, None):
            stopping = asyncio.create_task(engine.stop())
            self._tasks.add(stopping)
            stopping.add_done_callback(self._tasks.discard)
            await asyncio.shield(stopping)
            self._changed()

    async def _until_idle(self, seconds: float) -> None:
        ends = [engine.until_idle() for engine in self._running.values()]
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*ends)

    def _alive(self, digest: str) -> Engine | None:
        """One that answers; while engines leave none does."""
        if self._is_leaving or self._is_closed:
            raise _training_first() if not self._is_closed else _draining()
        engine = self._running.get(digest)
        return engine if engine is not None and engine.is_ready else None

    def _check_may_start(self) -> None:
        if self._is_closed:
            raise _draining()
        if self._is_leaving or self._slot.is_taken_by_training():
            raise _training_first()

    def _take_slot(self) -> HeldSlot:
        held = self._slot.take()
        if held is None:
            raise _training_first()
        return held


def _training_first() -> Unserved:
    return Unserved(
        "A job trains where the model would answer; training has the right of way.",
        code=ErrorCode.TRAINING_COMES_FIRST,
        retry_after_seconds=_PREEMPTED_SECONDS,
    )


def _draining() -> Unserved:
    return Unserved("This inference worker is on its way out.")
