"""`tunesmith-worker serve`: an inference worker from its start to its end."""

import asyncio
import os
import platform
import secrets
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version

import structlog
import uvicorn

from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.inference_messages import InferenceHeartbeat, RegisterInferenceWorker
from tunesmith.worker.inference.elsewhere import EngineElsewhere
from tunesmith.worker.inference.engine_kinds import budget_bytes, kind_of
from tunesmith.worker.inference.engine_sandbox import engine_sandbox
from tunesmith.worker.inference.engines import Engines, Terms
from tunesmith.worker.inference.gateway import Gateway
from tunesmith.worker.inference.loaded import Source
from tunesmith.worker.inference.model_files import ModelFolders
from tunesmith.worker.inference.presence import Presence
from tunesmith.worker.inference.settings import InferenceSettings
from tunesmith.worker.inference.slot_hold import SlotHold
from tunesmith.worker.machine.probe import probe
from tunesmith.worker.machine.slots import gpu_locks, hardware_of_slot, slots_of
from tunesmith.worker.trainer_process.processes import end_leftovers
from tunesmith.worker.transport.inference_control import HttpInferenceControl
from tunesmith.worker.work_directory import WorkDirectory

log = structlog.get_logger(__name__)

_LOCK = "serving.lock"


def serve(settings: InferenceSettings, *, name: str | None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Raises:
        WorkDirectoryInUse: another inference worker has the folder.
        NotSandboxed: engines cannot be sandboxed, and must be.
        NoEngine: no engine is installed here, and none elsewhere is named.
        TunesmithError: the service refuses this worker, for example because its key is wrong.
    """
    if settings.mode == "off":
        log.info("inference.off")
        return 0
    work = WorkDirectory(settings.work_dir)
    work.create()
    with work.lock(_LOCK):
        end_leftovers(work.serving, runs=work.serving)
        worker = InferenceWorker(settings, work=work, name=name or platform.node())
        asyncio.run(worker.run())
    return 0


class InferenceWorker:
    """One start of it: engines, gateway, presence."""

    def __init__(self, settings: InferenceSettings, *, work: WorkDirectory, name: str) -> None:
        self._settings, self._work, self._name = settings, work, name
        self._hardware = hardware_of_slot(self._probe(), index=0, count=settings.slots)
        self._secret = secrets.token_urlsafe(32)
        self._incarnation = uuid.uuid4().hex
        self._worker_id = f"inference-{work.worker_id().removeprefix('worker-')}"
        self._control = HttpInferenceControl(
            url=settings.service_url,
            worker_key=settings.worker_key.get_secret_value(),
            worker_id=self._worker_id,
        )
        self._engine_name = "elsewhere"
        self._engines: Engines | None = None
        self._source = self._choose_source()
        self._gateway = Gateway(self._source.using, secret=self._secret, most_requests=settings.most_requests)
        self._presence: Presence | None = None
        self._server: uvicorn.Server | None = None
        self._refused: BaseException | None = None

    async def run(self) -> None:
        """Serve until a signal."""
        with socket.create_server((self._settings.host, self._settings.port)) as listener:
            port = listener.getsockname()[1]
            self._presence = Presence(self._control, self._registration(port), beat=self._beat)
            self._gateway.application.router.lifespan_context = self._alive
            config = uvicorn.Config(
                self._gateway.application,
                http="h11",  # which bounds the head of a request; httptools, where it is installed, does not
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=max(1, round(self._settings.grace_seconds)),
            )
            self._server = _Server(config, on_shutdown=self._leave)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: None)  # uvicorn raises them once more when all has ended
            await self._server.serve(sockets=[listener])
        self._control.close()
        if self._refused is not None:
            raise self._refused

    @asynccontextmanager
    async def _alive(self, _application: object) -> AsyncIterator[None]:
        presence = self._presence
        assert presence is not None  # noqa: S101 - `run` has set it
        tidying = () if self._engines is None else (self._engines.tidy(),)
        tasks = [asyncio.create_task(work) for work in (presence.run(), self._source.watch(), *tidying)]
        tasks[0].add_done_callback(self._end_with)
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end_with(self, presence: "asyncio.Task[None]") -> None:
        """Nobody asks a worker that the service refuses."""
        if not presence.cancelled() and (error := presence.exception()):
            self._refused = error
            if self._server is not None:
                self._server.should_exit = True

    async def _leave(self) -> None:
        """Say so, and end the engines when their answers have ended or the grace has."""
        closing = asyncio.create_task(self._source.close())
        await asyncio.sleep(0)
        self._hurry()
        await closing

    def _choose_source(self) -> Source:
        settings = self._settings
        if settings.engine_url is not None:
            key = settings.engine_key.get_secret_value() if settings.engine_key else None
            return EngineElsewhere(settings.engine_url, key=key, silence_seconds=settings.silence_seconds)
        kind = kind_of(settings)
        self._engine_name = kind.name
        slots = slots_of(self._probe(), count=settings.slots, folder=self._work.slots, shared=gpu_locks(os.environ))
        slot = SlotHold(
            slots,
            probe=self._probe,
            mark=self._work.serving,
            grace_seconds=settings.grace_seconds,
            is_exclusive=settings.mode == "always",
        )
        folders = ModelFolders(
            self._control, bases=self._work.models, adapters=self._work.adapters, adapter_bytes=settings.cache_bytes
        )
        terms = Terms(
            grace=settings.grace_seconds,
            idle=settings.idle_seconds,
            start=settings.start_seconds,
            silence=settings.silence_seconds,
        )
        self._engines = Engines(
            kind=kind,
            folders=folders,
            slot=slot,
            mark=self._work.serving,
            terms=terms,
            sandbox=engine_sandbox(settings.sandbox, kind, adapters=self._work.adapters, work=self._work.root),
            changed=self._hurry,
        )
        return self._engines

    def _registration(self, port: int) -> RegisterInferenceWorker:
        return RegisterInferenceWorker(
            worker_id=self._worker_id,
            incarnation=self._incarnation,
            hostname=self._name,
            version=version("tunesmith"),
            worker_class=self._hardware.worker_class,
            engine=self._engine_name,
            url=self._settings.url or f"http://{_in_url(self._settings.host)}:{port}",
            secret=self._secret,
            memory_bytes=budget_bytes(self._hardware),
        )

    def _beat(self) -> InferenceHeartbeat:
        return InferenceHeartbeat(
            incarnation=self._incarnation,
            doing=self._source.doing(),
            bases=self._source.bases(),
            names=self._source.names(),
            requests=self._gateway.open_requests,
        )

    def _hurry(self) -> None:
        if self._presence is not None:
            self._presence.hurry()

    def _probe(self) -> HardwareProfile:
        return probe(disk=self._work.root, cpu_memory_gib=self._settings.cpu_memory_gib)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, *, on_shutdown: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._on_shutdown = on_shutdown

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """The engines leave first, and answer that they do."""
        await self._on_shutdown()
        await super().shutdown(sockets)


def _in_url(host: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"[{host}]" if ":" in host else host
