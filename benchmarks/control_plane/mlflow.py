"""MLflow's tracking server under the like load: create a run, log a batch of metrics, get a run."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.control_plane.site import free_port

ROOT = Path(__file__).parents[2]
PACKAGES = ("mlflow==3.4.0", "sqlalchemy<2.1")  # it imports what 2.1 took away
API = "/api/2.0/mlflow"
POINTS = 500


def measure(*, seconds: float) -> None:
    """Print a table of the three."""
    print(f"{PACKAGES[0]}, its own SQLite and server\n\n| load | per second |\n|---|---|", flush=True)
    with _server() as port:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            run_id = client.post(f"{API}/runs/create", json={"experiment_id": "0"}).json()["run"]["info"]["run_id"]
        points = [{"key": "loss", "value": 1.5, "timestamp": 1, "step": step} for step in range(POINTS)]
        asks = {
            "create run": ("POST", f"{API}/runs/create", {"experiment_id": "0"}),
            "log batch": ("POST", f"{API}/runs/log-batch", {"run_id": run_id, "metrics": points}),
            "get run": ("GET", f"{API}/runs/get?run_id={run_id}", None),
        }
        for name, (method, path, body) in asks.items():
            settings = {"port": port, "seconds": seconds, "method": method, "path": path, "body": body}
            found = _pressed(settings)
            more = f", {found['per_second'] * POINTS:,.0f} points" if name == "log batch" else ""
            print(f"| {name} | {found['per_second']:.0f}{more}, p99 {found['p99']:.0f} ms |", flush=True)


def _pressed(settings: dict[str, Any]) -> dict[str, Any]:
    asked = settings | {"host": "127.0.0.1", "key": "", "clients": 16}
    command = [sys.executable, "-m", "benchmarks.control_plane.load", "plain"]
    done = subprocess.run(command, input=json.dumps(asked), stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextlib.contextmanager
def _server() -> Iterator[int]:
    python = _environment(ROOT / "build" / "bench-mlflow")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [python, "-m", "mlflow", "server", "--port", str(port), "--backend-store-uri", "sqlite:///runs.db"]
        log = Path(folder) / "server.log"
        with log.open("wb") as errors:
            server = subprocess.Popen(
                [*map(str, command)], cwd=folder, env=os.environ, stdout=errors, stderr=errors, start_new_session=True
            )
        try:
            _wait(port, server, log=log)
            yield port
        finally:
            os.killpg(server.pid, signal.SIGKILL)  # its own children outlive a SIGTERM
            server.wait()


def _environment(folder: Path) -> Path:
    """MLflow's own virtual environment, built once."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        (folder / "ready").touch()
    return python


def _wait(port: int, server: subprocess.Popen[bytes], *, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"http://127.0.0.1:{port}/health", trust_env=False).is_success:
                return
        time.sleep(0.5)
    raise RuntimeError(f"MLflow's server did not start:\n{log.read_text()[-2000:]}")
