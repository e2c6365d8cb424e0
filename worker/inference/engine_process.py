"""One engine: a child process that holds a base, and the adapters that were loaded into it."""

import asyncio
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import httpx2
import structlog

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest, Unserved
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.values.json_objects import Json
from tunesmith.worker.inference.engine_kinds import EngineKind
from tunesmith.worker.inference.engine_sandbox import EngineSandbox
from tunesmith.worker.sandbox.choice import sandboxed
from tunesmith.worker.trainer_process.launcher import trainer_environment
from tunesmith.worker.trainer_process.log_file import TrainerLog
from tunesmith.worker.trainer_process.processes import kill_tree, terminate_group

log = structlog.get_logger(__name__)

_POLL_SECONDS = 0.1
_TERMINATE_SECONDS = 1.0
_KILL_SECONDS = 10.0
_LOG_BYTES = 4 * 1024**2
_CONNECT_SECONDS = 5.0
_LOAD_SECONDS = 120.0  # of one adapter


class Engine:
    """Started by `begin`. `name` is what the base is called in it; adapters have names of their own."""

    def __init__(
        self,
        *,
        kind: EngineKind,
        name: str,
        url: str,
        key: str,
        process: "subprocess.Popen[bytes]",
        mark: Path,
        output: TrainerLog,
        memory_bytes: int,
        silence_seconds: float,
        lifeline: int,
    ) -> None:
        self.kind, self.name, self.memory_bytes = kind.name, name, memory_bytes
        self.log_path = mark / f"{name}.log"
        self.last_used_at = time.monotonic()
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.gave_way = False
        self._is_loaded = False
        self._process, self._mark, self._output, self._lifeline = process, mark, output, lifeline
        self._loaded: dict[str, int] = {}  # answers under way, by the name of an adapter
        self._loading: dict[str, asyncio.Lock] = {}
        # One header for all requests: nothing else on this host may use the engine, and no proxy may see the key.
        self._client = httpx2.AsyncClient(
            base_url=url,
            headers={"authorization": f"Bearer {key}"},
            timeout=httpx2.Timeout(silence_seconds, connect=_CONNECT_SECONDS, pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=32),
            trust_env=False,
        )

    @property
    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self._process.poll() is None

    @property
    def is_ready(self) -> bool:
        """Whether it has loaded its base, and lives."""
        return self._is_loaded and self.is_alive

    @property
    def is_idle(self) -> bool:
        """Whether no answer is under way."""
        return self._under_way == 0

    async def until_idle(self) -> None:
        """Until no answer is under way."""
        await self._idle.wait()

    async def wait_until_ready(self, seconds: float) -> None:
        """Until it has loaded its base.

        Raises:
            Unserved: it ended, or takes longer.
        """
        deadline = time.monotonic() + seconds
        while not (self.is_alive and await self._lists_its_base()):
            if not self.is_alive:
                raise Unserved(
                    f"The engine ended with {self._process.returncode} while it loaded the model; see {self.log_path}.",
                    code=ErrorCode.ENGINE_FAILED,
                    retry_after_seconds=30,
                )
            if time.monotonic() > deadline:
                raise Unserved(
                    f"The engine did not load the model within {seconds:.0f} s; see {self.log_path}.",
                    code=ErrorCode.ENGINE_FAILED,
                    retry_after_seconds=30,
                )
            await asyncio.sleep(_POLL_SECONDS)
        self._is_loaded = True
        self.last_used_at = time.monotonic()

    @contextmanager
    def answering(self, adapter: str | None) -> Iterator[None]:
        """An answer is under way, by the base alone or with an adapter: neither is dropped meanwhile."""
        self._under_way += 1
        self._idle.clear()
        if adapter is not None:
            self._loaded[adapter] = self._loaded.get(adapter, 0) + 1
        try:
            yield
        finally:
            self._under_way -= 1
            if self.is_idle:
                self._idle.set()
            if adapter is not None:
                self._loaded[adapter] -= 1
            self.last_used_at = time.monotonic()

    async def load(self, adapter: str, folder: Path, *, is_dropped: bool = False) -> None:
        """Have the adapter in the engine, under a name that stands for its bytes. Loading it again changes nothing.

        An engine drops adapters by itself when its memory for them is full: `is_dropped` says that this one was.

        Raises:
            InvalidRequest: the engine refuses it, for example because it belongs to another base.
        """
        async with self._loading.setdefault(adapter, asyncio.Lock()):
            if adapter in self._loaded and not is_dropped:
                return
            response = await self._post("load_lora_adapter", {"lora_name": adapter, "lora_path": str(folder)})
            if response.is_error and "already" not in response.text:
                raise _refused(response)
            self._loaded.setdefault(adapter, 0)

    async def unload(self, adapter: str) -> bool:
        """Drop an adapter that no answer uses; False when one does."""
        if self._loaded.get(adapter):
            return False
        if self._loaded.pop(adapter, None) is not None:
            with suppress(httpx2.HTTPError):
                await self._post("unload_lora_adapter", {"lora_name": adapter})
        return True

    def uses(self, adapter: str) -> bool:
        """Whether an answer of the adapter is under way."""
        return bool(self._loaded.get(adapter))

    @asynccontextmanager
    async def ask(self, path: str, body: Json) -> AsyncIterator[httpx2.Response]:
        """Pass a request on; the answer streams."""
        async with self._client.stream("POST", f"/v1/{path}", json=body) as response:
            yield response

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL to everything that was started for it."""
        if self.is_alive:
            terminate_group(self._process.pid)
            await asyncio.to_thread(self._wait, _TERMINATE_SECONDS)
        await asyncio.to_thread(self._end)
        await self._client.aclose()
        log.info("engine.stopped", engine=self.name, exit_code=self._process.returncode)

    def _end(self) -> None:
        kill_tree(self._process.pid, run_dir=self._mark / self.name, wait_seconds=_KILL_SECONDS)
        self._process.wait(timeout=_KILL_SECONDS)
        self._output.close()
        os.close(self._lifeline)

    def _wait(self, seconds: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=seconds)

    async def _lists_its_base(self) -> bool:
        """Its key opens it and it knows the name: so it is ours, and not another that took the port."""
        try:
            response = await self._client.get("/v1/models", timeout=_CONNECT_SECONDS)
            return self.name in [model["id"] for model in response.json()["data"]]
        except (httpx2.HTTPError, ValueError, KeyError, TypeError):
            return False

    async def _post(self, path: str, body: Json) -> httpx2.Response:
        return await self._client.post(f"/v1/{path}", json=body, timeout=_LOAD_SECONDS)


def begin(
    kind: EngineKind,
    folder: Path,
    *,
    name: str,
    mark: Path,
    locks: tuple[int, ...],
    hardware: HardwareProfile,
    silence_seconds: float,
    memory_bytes: int,
    sandbox: EngineSandbox | None = None,
    environment: dict[str, str] | None = None,
) -> Engine:
    """Start an engine for the base in `folder`. Its tree inherits the locks, and ends with this process.

    `mark` is the folder that all engines of this gateway are known by.
    """
    key = secrets.token_urlsafe(32)
    given = _environment(environment or dict(os.environ), run_dir=mark / name, hardware=hardware)
    output, ours = os.pipe()
    life, lifeline = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
        inherited = None if sandbox is None else listener.fileno()
        launch = kind.launch(folder, served_as=name, port=port, key=key, gpus=len(hardware.gpus), listener=inherited)
        if sandbox is None:
            listener.close()  # the engine opens the port itself
        try:
            process = subprocess.Popen(
                _command(launch.words, folder, own=mark / name, sandbox=sandbox),
                stdin=life,
                stdout=ours,
                stderr=ours,
                env={**given, **launch.environment},
                cwd=mark if sandbox is None else mark / name,
                pass_fds=locks if inherited is None else (*locks, inherited),
                start_new_session=True,
            )
        except BaseException:
            os.close(lifeline)
            os.close(output)
            raise
        finally:
            os.close(ours)
            os.close(life)
    trainer_log = TrainerLog(mark / f"{name}.log", cap_bytes=_LOG_BYTES)
    trainer_log.follow(output)
    log.info("engine.started", engine=name, kind=kind.name, pid=process.pid, port=port)
    return Engine(
        kind=kind,
        name=name,
        url=f"http://127.0.0.1:{port}",
        key=key,
        process=process,
        mark=mark,
        output=trainer_log,
        memory_bytes=memory_bytes,
        silence_seconds=silence_seconds,
        lifeline=lifeline,
    )


def _environment(inherited: dict[str, str], *, run_dir: Path, hardware: HardwareProfile) -> dict[str, str]:
    """As trainers have it: by an allow-list, with the slot's own cores and devices."""
    devices = tuple(gpu.uuid or str(gpu.index) for gpu in hardware.gpus)
    return trainer_environment(inherited, run_dir=run_dir, cores=hardware.cpu.cores, devices=devices)


def _command(words: tuple[str, ...], base: Path, *, own: Path, sandbox: EngineSandbox | None) -> list[str]:
    """One that ends with this process: a sandbox by its standard input, without one by the parent's death."""
    if sandbox is not None:
        return sandboxed(sandbox.around(base, own=own), list(words))
    return [sys.executable, "-P", "-m", "tunesmith.worker.inference.child", str(os.getpid()), *words]


def _refused(response: httpx2.Response) -> InvalidRequest:
    try:
        error = response.json()["error"]
        message = str(error["message"] if isinstance(error, dict) else error)
        code = str(error.get("code") or "") if isinstance(error, dict) else ""
    except (ValueError, KeyError, TypeError):
        message, code = response.text[:500], ""
    refusal = InvalidRequest(
        f"The engine cannot load the adapter: {message}", code=ErrorCode.ENGINE_REFUSED, param="model"
    )
    return refusal.with_code(code) if code else refusal
