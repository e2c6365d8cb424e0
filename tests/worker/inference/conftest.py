"""A gateway over real engine processes, which fetch from a scripted service."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import uvicorn

from tests.machines import CPU
from tests.stack import stand_in_engine
from tests.worker.conftest import ref
from tests.worker.scripted_service import Reply, Request, ScriptedService
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.inference_messages import Generation, ModelFiles, ServedModel
from tunesmith.tuning.values.json_objects import Json
from tunesmith.worker.inference.engine_kinds import OWN, EngineKind
from tunesmith.worker.inference.engine_sandbox import EngineSandbox
from tunesmith.worker.inference.engines import Engines, Terms
from tunesmith.worker.inference.gateway import Gateway
from tunesmith.worker.inference.model_files import ModelFolders
from tunesmith.worker.inference.slot_hold import SlotHold
from tunesmith.worker.machine.slots import Slots
from tunesmith.worker.transport.inference_control import HttpInferenceControl

SECRET = "secret-of-this-start"
STAND_IN = EngineKind(name=OWN, program=(sys.executable, str(stand_in_engine.__file__)))


@dataclass
class Answered:
    """What came for one generation."""

    status: int = 0
    waited: list[str] = field(default_factory=list)
    head: Json = field(default_factory=dict)
    body: bytes = b""

    @property
    def text(self) -> str:
        choice = json.loads(self.body)["choices"][0]
        return str(choice["message"]["content"] if "message" in choice else choice["text"])

    @property
    def error(self) -> Json:
        return dict(json.loads(self.body)["error"])

    @property
    def events(self) -> list[Any]:
        lines = [line[6:] for line in self.body.decode().split("\n") if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


class Host:
    """One machine that serves: its folder, its slots, its store of files."""

    def __init__(self, root: Path, service: ScriptedService) -> None:
        self.root, self.service = root, service
        self.contents: dict[str, bytes] = {}
        self.slots = Slots(root, (("cpu-0",),))
        for name in ("models", "adapters", "serving"):
            (root / name).mkdir()
        service.otherwise = self._blob
        self.engines: Engines
        self.folders: ModelFolders
        self.gateway: Gateway
        self.url = ""
        self.changes = 0

    def base(self, name: str = "tiny", *, weights: bytes | None = None, **more: bytes) -> ModelFiles:
        return self._files(name, {"config.json": b"{}", "model.safetensors": weights or name.encode(), **more})

    def adapter(self, name: str, *, weights: bytes | None = None, made_for: str | None = None) -> ModelFiles:
        config = {"made_for": made_for} if made_for else {}
        files = {
            "adapter_config.json": json.dumps(config).encode(),
            "adapter_model.safetensors": weights or name.encode(),
        }
        return self._files(name, files)

    def said(self, *, base: ModelFiles, adapter: ModelFiles | None = None, to: str = "hello") -> str:
        """What the stand-in answers when everything is right."""
        return f"base {_fingerprint(base)} adapter {_fingerprint(adapter) if adapter else 'none'} said {to}"

    def model(self, base: ModelFiles, adapter: ModelFiles | None = None) -> ServedModel:
        return ServedModel(name=(adapter or base).name, base=base, adapter=adapter)

    def hardware(self) -> HardwareProfile:
        return CPU

    @contextlib.asynccontextmanager
    async def serving(
        self,
        *,
        kind: EngineKind = STAND_IN,
        most_requests: int = 256,
        cache_bytes: int = 2**30,
        grace_seconds: float = 0.3,
        idle_seconds: float = 60,
        start_seconds: float = 120,
        silence_seconds: float = 30,
        sandbox: EngineSandbox | None = None,
    ) -> AsyncIterator["Host"]:
        control = HttpInferenceControl(url=self.service.url, worker_key="key", worker_id="inference-1")
        self.folders = ModelFolders(
            control, bases=self.root / "models", adapters=self.root / "adapters", adapter_bytes=cache_bytes
        )
        mark = self.root / "serving"
        slot = SlotHold(self.slots, probe=self.hardware, mark=mark, grace_seconds=grace_seconds)
        terms = Terms(grace=grace_seconds, idle=idle_seconds, start=start_seconds, silence=silence_seconds)
        self.engines = Engines(
            kind=kind,
            folders=self.folders,
            slot=slot,
            mark=mark,
            terms=terms,
            sandbox=sandbox,
            changed=self._note_change,
        )
        self.gateway = Gateway(self.engines.using, secret=SECRET, most_requests=most_requests)
        watching = asyncio.create_task(self.engines.watch())
        async with running(self.gateway.application) as self.url:
            try:
                yield self
            finally:
                await self.engines.close()
                await watching
                control.close()

    async def ask(
        self,
        base: ModelFiles,
        adapter: ModelFiles | None = None,
        *,
        to: str = "hello",
        stream: bool = False,
        **body: Any,
    ) -> Answered:
        asked = {"messages": [{"role": "user", "content": to}], "stream": stream, **body}
        generation = Generation(model=self.model(base, adapter), path="chat/completions", body=asked)
        answered = Answered()
        async with (
            httpx2.AsyncClient(base_url=self.url, timeout=30, headers=authorization()) as client,
            client.stream("POST", "/generate", content=generation.model_dump_json()) as response,
        ):
            if not response.is_success:
                return Answered(status=response.status_code, body=await response.aread())
            await _read(response, answered)
        return answered

    def engine_pids(self) -> list[int]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("TUNESMITH_RUN_DIR", "").startswith(f"{self.root}/serving/"):
                    found.append(process.pid)
        return [pid for pid in found if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]

    def _files(self, name: str, contents: dict[str, bytes]) -> ModelFiles:
        files = tuple(ref(file, content) for file, content in contents.items())
        self.contents |= {file.sha256: contents[file.name] for file in files}
        return ModelFiles(name=name, files=files)

    def _blob(self, request: Request) -> Reply:
        content = self.contents.get(request.path.rpartition("/")[2])
        return Reply.error(404, "blob_not_found") if content is None else Reply(200, content)

    def _note_change(self) -> None:
        self.changes += 1


def authorization() -> dict[str, str]:
    return {"authorization": f"Bearer {SECRET}"}


async def until(look: Callable[[], bool]) -> None:
    """Wait for a sign; the test's own time-out is the deadline."""
    while not look():  # noqa: ASYNC110 - what is awaited is another process's, or a server's
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(application: Any) -> AsyncIterator[str]:
    """An ASGI application at an address of its own, in this event loop."""
    server = uvicorn.Server(uvicorn.Config(application, port=0, log_config=None, access_log=False))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@pytest.fixture
def host(tmp_path: Path, service: ScriptedService) -> Iterator[Host]:
    made = Host(tmp_path / "work", service) if (tmp_path / "work").mkdir() is None else None
    assert made is not None
    yield made
    assert made.engine_pids() == []


async def _read(response: httpx2.Response, answered: Answered) -> None:
    """The frames, as the service reads them."""
    rest = b""
    with contextlib.suppress(httpx2.RemoteProtocolError):
        async for piece in response.aiter_bytes():
            rest += piece
            while not answered.head and b"\n" in rest:
                line, _, rest = rest.partition(b"\n")
                frame = json.loads(line)
                if "waiting" in frame:
                    answered.waited.append(frame["waiting"])
                else:
                    answered.head, answered.status = frame, frame["status"]
    answered.body = rest


def _fingerprint(model: ModelFiles) -> str:
    (weights,) = [file for file in model.files if file.name.endswith("model.safetensors")]
    return weights.sha256[:12]
