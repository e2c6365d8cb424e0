"""What code in an engine could try, it is refused; what the engine needs, it has."""

import asyncio
import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.security.conftest import why_not
from tests.worker.inference.conftest import STAND_IN, Host, until
from tunesmith.tuning.inference_messages import ModelFiles
from tunesmith.worker.inference.engine_kinds import VLLM, EngineKind
from tunesmith.worker.inference.engine_sandbox import EngineSandbox, NotSandboxed, engine_sandbox
from tunesmith.worker.sandbox.definition import KINDS, Kind

SECRET = "ts-canary-0123456789"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    if (reason := why_not(request.param)) is not None:
        pytest.skip(f"this machine allows no sandbox of {request.param}: {reason}")
    chosen: Kind = request.param
    return chosen


def test_an_engine_answers_with_adapters_and_reaches_nothing_else(host: Host, kind: Kind) -> None:
    other, key = host.root / "models" / "another.safetensors", host.root / "admin.key"
    for secret in (other, key):
        secret.write_text(SECRET)
    base, first, later = host.base(), host.adapter("first"), host.adapter("later")
    sandbox = EngineSandbox(kind=kind, adapters=host.root / "adapters", work=host.root)

    async def use(stranger: int, port: int) -> None:
        async with host.serving(sandbox=sandbox):
            for adapter in (first, later):  # the second comes to the disk while the engine runs
                assert (await host.ask(base, adapter)).text == host.said(base=base, adapter=adapter)
            folder = host.root / "models" / base.digest
            for act in (
                f"open({str(key)!r}).read()",
                f"open({str(other)!r}).read()",
                f"open({str(folder / 'config.json')!r}, 'w')",
                f"open({str(host.root / 'adapters' / 'x')!r}, 'w')",
                f"open('/proc/{os.getpid()}/environ').read()",
                f"__import__('socket').create_connection(('127.0.0.1', {port}), 2)",
            ):
                assert "said REFUSED" in await _tried(host, base, act), act
            await _tried(host, base, f"__import__('os').kill({stranger}, 9) and 0")
            assert "said DONE 1" in await _tried(host, base, "open('x', 'w').write('x')")
        await until(lambda: not host.engine_pids())

    with subprocess.Popen(["sleep", "600"]) as stranger, socket.create_server(("127.0.0.1", 0)) as listener:
        try:
            asyncio.run(use(stranger.pid, listener.getsockname()[1]))
            alive = stranger.poll() is None
        finally:
            stranger.kill()
    assert alive or kind == "landlock"  # of which Linux before 6.12 refuses no signals


def test_where_it_is_off_there_is_none_and_where_it_is_required_there_is_no_engine_without(tmp_path: Path) -> None:
    where = {"adapters": tmp_path / "adapters", "work": tmp_path}
    assert engine_sandbox("off", STAND_IN, **where) is None
    found = engine_sandbox("require", STAND_IN, **where, best_kind=lambda: "landlock")
    assert found is not None
    assert found.kind == "landlock"
    vllm = EngineKind(name=VLLM, program=("vllm",))
    assert engine_sandbox("auto", vllm, **where, best_kind=lambda: "landlock") is None
    for engine, kind in ((STAND_IN, None), (vllm, "landlock")):
        with pytest.raises(NotSandboxed):
            engine_sandbox("require", engine, **where, best_kind=lambda kind=kind: kind)


async def _tried(host: Host, base: ModelFiles, act: str) -> str:
    return (await host.ask(base, to=f"try {act}")).text
