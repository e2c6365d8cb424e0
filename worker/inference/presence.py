"""What makes the service know this inference worker: one registration, and a beat now and then."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from tunesmith.tuning.errors import NotFound, brief
from tunesmith.tuning.inference_messages import InferenceHeartbeat, RegisterInferenceWorker
from tunesmith.worker.transport.inference_control import HttpInferenceControl
from tunesmith.worker.transport.retry import Unavailable

log = structlog.get_logger(__name__)

_PAUSE_SECONDS = 1.0  # before the next try to register


class Presence:
    """Run it beside the gateway."""

    def __init__(
        self,
        control: HttpInferenceControl,
        registration: RegisterInferenceWorker,
        *,
        beat: Callable[[], InferenceHeartbeat],
    ) -> None:
        self._control, self._registration, self._beat = control, registration, beat
        self._hurry = asyncio.Event()

    async def run(self) -> None:
        """Register, then beat until cancelled."""
        interval_seconds = await self._register()
        while True:
            try:
                await self.beat()
            except NotFound:
                interval_seconds = await self._register()
            except Exception as error:  # whatever it was: answers under way are none of the heartbeat's
                log.warning("inference.heartbeat_missed", error=brief(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(interval_seconds):
                    await self._hurry.wait()
            self._hurry.clear()

    def hurry(self) -> None:
        """Beat at once: something changed."""
        self._hurry.set()

    async def beat(self) -> None:
        """Beat, once."""
        await asyncio.to_thread(self._control.heartbeat, self._beat())

    async def _register(self) -> float:
        while True:
            try:
                registered = await asyncio.to_thread(self._control.register, self._registration)
            except Unavailable as unavailable:
                log.warning("inference.waiting_for_service", reason=str(unavailable))
                await asyncio.sleep(unavailable.pause_seconds or _PAUSE_SECONDS)
            else:
                log.info("inference.registered", worker_id=self._registration.worker_id, url=self._registration.url)
                return registered.heartbeat_interval_seconds
