"""A whole installation part by part: API, keeper and workers over servers that are there already, with short leases."""

import contextlib
import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import httpx2

from tests.ports import free_port
from tests.stack.installation import MODEL, Installation
from tests.stack.read_only_disk import ReadOnlyLater
from tests.stack.stand_in_engine import in_place_of_vllm
from tests.stack.worker import Worker, trainers_below
from tests.tiny_model import build_tiny_model
from tests.waiting import eventually
from tunesmith.tuning.values.hashes import sha256_of_text
from tunesmith.worker.hashes import sha256_of

SERVICE_PROGRAM = str(Path(sys.executable).with_name("tunesmith-service"))


class Services(Installation):
    """Call `start`, then `register_model`; `stop` leaves nothing behind."""

    url, user_key, database_url = "", "", ""

    def __init__(self, root: Path, *, database_url: str, redis_url: str) -> None:
        self.root = root
        self.database_url = database_url
        self.url = f"http://127.0.0.1:{free_port()}"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._workers: list[Worker] = []
        self._environment = {
            **os.environ,
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "TUNESMITH_STORE": f"file://{root / 'store'}",
            "TUNESMITH_LEASE_SECONDS": "4",
            "TUNESMITH_HEARTBEAT_SECONDS": "0.5",
            "TUNESMITH_KEEPER_SECONDS": "0.5",
            "TUNESMITH_RETRY_SECONDS": "0.1",
        }
        self.user_key = self._key("member")
        self._admin_key = self._key("admin")
        self._worker_key = self._key("worker")

    def start(self) -> None:
        """Start everything but workers."""
        self._spawn("keeper")
        self.start_api()

    def start_api(self) -> None:
        """Start the API at its address, and wait until it answers."""
        self._api = self._spawn("serve", "--port", self.url.rpartition(":")[2])
        eventually(self._is_ready, what=lambda: f"the API\n{self.logs()}")

    def kill_api(self) -> None:
        """SIGKILL to the API."""
        self._api.kill()
        self._api.wait()

    def start_worker(
        self, *, work_dir: Path | None = None, disk: ReadOnlyLater | None = None, **settings: str
    ) -> Worker:
        """Start a worker of one slot; the same `work_dir` as an earlier one makes it that machine after a restart."""
        name = f"worker-{len(self._workers) + 1}"
        environment = {
            **self._environment,
            "TUNESMITH_URL": self.url,
            "TUNESMITH_WORKER_KEY": self._worker_key,
            "OMP_THREAD_LIMIT": "1",  # threads of a tiny product that wait for each other crawl on a busy machine
            **settings,
        }
        folder = work_dir or self.root / f"work-{len(self._workers) + 1}"
        return self._start(name, folder, environment, disk=disk)

    def start_inference_worker(self, *, work_dir: Path, **settings: str) -> Worker:
        """Start a worker that serves, with a program in the place of vLLM that has no model."""
        programs = in_place_of_vllm(self.root / "programs")
        environment = {
            **self._environment,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "TUNESMITH_URL": self.url,
            "TUNESMITH_WORKER_KEY": self._worker_key,
            **settings,
        }
        return self._start(f"inference-{len(self._workers) + 1}", work_dir, environment, verb="serve")

    def _start(
        self,
        name: str,
        folder: Path,
        environment: dict[str, str],
        *,
        verb: str = "run",
        disk: ReadOnlyLater | None = None,
    ) -> Worker:
        log = self.root / f"{name}.log"
        self._workers.append(Worker(name, work_dir=folder, log=log, environment=environment, verb=verb, disk=disk))
        return self._workers[-1]

    def stop(self) -> None:
        """End every process that was started here, and whatever trainers are left."""
        for worker in self._workers:
            worker.kill()
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=15)
            process.kill()
            process.wait()
        for stray in trainers_below(self.root):
            stray.kill()

    def register_model(self) -> None:
        """Build the tiny model and add it by hash, as the command line does."""
        folder = build_tiny_model(self.root / "tiny")
        paths = sorted(path for path in folder.iterdir() if path.is_file())
        files = [{"name": path.name, "sha256": sha256_of(path), "bytes": path.stat().st_size} for path in paths]
        body = {"name": MODEL, "files": files, "config": json.loads((folder / "config.json").read_text())}
        with self.http(self._admin_key) as client:
            client.post("/v1/models", json=body).raise_for_status()
            for path, file in zip(paths, files, strict=True):
                client.put(f"/v1/blobs/{file['sha256']}", content=path.read_bytes()).raise_for_status()
            model = client.post("/v1/models", json=body).raise_for_status().json()
        assert model["tunesmith"]["status"] == "ready"

    def logs(self) -> str:
        return "\n".join(f"== {log.name}\n{log.read_text()[-3000:]}" for log in sorted(self.root.glob("*.log")))

    def _is_ready(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/readyz").is_success
        except httpx2.TransportError:
            return False

    def _key(self, role: str) -> str:
        """A row, as `tunesmith-service keys create` writes it after seconds of imports."""
        key = f"ts-{secrets.token_urlsafe(32)}"
        columns = {"id": f"key-{role}", "name": role, "role": role, "project": "default", "hint": key[-4:]}
        columns["key_sha256"] = sha256_of_text(key)
        statement = f"INSERT INTO api_keys ({', '.join(columns)}) VALUES (%s, %s, %s, %s, %s, %s) RETURNING id"
        self.query(statement, *columns.values())
        return key

    def _spawn(self, verb: str, *options: str, **settings: str) -> "subprocess.Popen[bytes]":
        command, environment = [SERVICE_PROGRAM, verb, *options], self._environment | settings
        with (self.root / f"{verb}.log").open("ab") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self._processes.append(process)
        return process
