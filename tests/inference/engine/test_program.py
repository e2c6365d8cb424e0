"""The program itself, as the worker starts it: a port, a key, a stream, a signal."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.inference.engine.asking import write_adapter
from tests.ports import free_port
from tunesmith.worker.inference.engine.__main__ import main

KEY = "of-this-engine"
ASKED = {"model": "tuned", "messages": [{"role": "user", "content": "one two"}], "temperature": 0}


def start(base: Path, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tunesmith.worker.inference.engine", "--model", str(base), "--port", str(port)]
    environment = {**os.environ, "TUNESMITH_ENGINE_KEY": KEY, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, "--served-model-name", "base"], env=environment, stderr=subprocess.PIPE)


@pytest.fixture
def program(base: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx2.Client]]:
    port = free_port()
    process = start(base, port)
    headers = {"authorization": f"Bearer {KEY}"}
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as client:
            wait_until_ready(process, client)
            yield process, client
    finally:
        process.kill()
        process.communicate()


def wait_until_ready(process: subprocess.Popen[bytes], client: httpx2.Client) -> None:
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        assert time.monotonic() < deadline
        try:
            assert client.get("/health").status_code == 200
        except httpx2.TransportError:
            time.sleep(0.1)
        else:
            return


def test_the_program_streams_and_finishes_what_is_under_way_when_it_is_told_to_end(
    program: tuple[subprocess.Popen[bytes], httpx2.Client], tmp_path: Path
) -> None:
    process, client = program
    folder = write_adapter(tmp_path / "a", seed=1)
    loaded = client.post("/v1/load_lora_adapter", json={"lora_name": "tuned", "lora_path": str(folder)})
    assert loaded.status_code == 200
    lines = []
    with client.stream("POST", "/v1/chat/completions", json={**ASKED, "stream": True, "max_tokens": 400}) as stream:
        for line in filter(None, stream.iter_lines()):
            lines.append(line.removeprefix("data: "))
            if len(lines) == 3:
                process.send_signal(signal.SIGTERM)
                refused = httpx2.post(
                    f"{client.base_url}/v1/chat/completions", json=ASKED, headers=dict(client.headers), timeout=60
                )
    assert lines[-1] == "[DONE]"
    assert json.loads(lines[-2])["choices"][0]["finish_reason"] in ("stop", "length")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert process.wait(60) == 0


def test_without_a_key_it_does_not_begin(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TUNESMITH_ENGINE_KEY", raising=False)
    with pytest.raises(SystemExit) as caught:
        main(["--model", str(base), "--port", "1", "--served-model-name", "base"])
    assert caught.value.code == 2
    assert "TUNESMITH_ENGINE_KEY is not set" in capsys.readouterr().err


def test_a_model_that_it_cannot_serve_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUNESMITH_ENGINE_KEY", KEY)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert main(["--model", str(tmp_path), "--port", "1", "--served-model-name", "base"]) == 1
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["code"] == "broken_model"


def test_an_engine_whose_loop_fails_ends_and_says_why() -> None:
    script = (
        "import threading, time\n"
        "from tunesmith.worker.inference.engine.__main__ import run_or_end\n"
        "def fail(): raise KeyError('lane')\n"
        "threading.Thread(target=run_or_end, args=(fail,), daemon=True).start()\n"
        "time.sleep(60)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=50)
    assert ended.returncode == 1
    assert "KeyError: 'lane'" in ended.stderr
