"""A whole installation as processes: API, keeper and workers over real PostgreSQL and Valkey, with short leases."""

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import openai
import psutil
import psycopg

from tests.tiny_model import build_tiny_model

MODEL = "tiny-llama"
PATIENCE_SECONDS = 150.0  # on a machine that is busy with other things
BIN = Path(sys.executable).parent
Found = TypeVar("Found")


def eventually(
    look: Callable[[], Found | None], *, seconds: float = PATIENCE_SECONDS, what: str = "it", pause: float = 0.1
) -> Found:
    """Return the first true answer, or fail when the deadline passes."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(pause)


class Worker:
    """A worker process. Its pool and its trainers are found through the process table, as an operator would."""

    def __init__(self, work_dir: Path, process: "subprocess.Popen[bytes]", *, log: Path) -> None:
        self.work_dir = work_dir
        self.process = process
        self.log = log

    def trainers(self) -> list[psutil.Process]:
        """Every living process of a run below this worker's folder."""
        return trainers_below(self.work_dir)

    def freeze(self, job_id: str, *, when: Callable[[Path], bool]) -> None:
        """Stop the clock of the job's trainer as soon as its run directory says so: fast and slow machines agree."""
        runs = self.work_dir / "runs" / job_id
        eventually(lambda: any(when(run) for run in runs.glob("*")), pause=0.01, what="that moment of the run")
        for trainer in self.trainers():
            trainer.suspend()

    def thaw(self) -> None:
        """Let the trainer go on."""
        for trainer in self.trainers():
            trainer.resume()

    def kill(self) -> None:
        """SIGKILL to the main process alone: what it leaves behind must end by itself."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def terminate(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.terminate()
        return self.process.wait(timeout=60)


def trainers_below(work_dir: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            mark = process.environ().get("TUNESMITH_RUN_DIR", "")
            if mark.startswith(f"{work_dir}/") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


class Stack:
    """Started once for a module of tests."""

    def __init__(self, root: Path, *, database_url: str, redis_url: str) -> None:
        self.root = root
        self._database_url = database_url
        self._processes: list[subprocess.Popen[bytes]] = []
        self._workers = 0
        self.url = f"http://127.0.0.1:{_free_port()}"
        self._environment = {
            **os.environ,
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "TUNESMITH_STORE": f"file://{root / 'store'}",
            "TUNESMITH_LEASE_SECONDS": "4",
            "TUNESMITH_HEARTBEAT_SECONDS": "0.5",
            "TUNESMITH_KEEPER_SECONDS": "0.5",
            "TUNESMITH_RETRY_SECONDS": "0.1",
            "OMP_NUM_THREADS": "2",
        }
        self.admin_key = self._key("admin")
        self.member_key = self._key("member")
        self.worker_key = self._key("worker")

    def start(self) -> None:
        """Start everything but workers."""
        self._spawn("keeper", [BIN / "tunesmith-service", "keeper"])
        self.start_api()

    def start_api(self) -> None:
        """Start the API at its address."""
        self._api = self._spawn("api", [BIN / "tunesmith-service", "serve", "--port", self.url.rpartition(":")[2]])
        eventually(self._is_ready, what="the API")

    def kill_api(self) -> None:
        """SIGKILL to the API."""
        self._api.kill()
        self._api.wait()

    def stop(self) -> None:
        """End every process that was started here, and whatever trainers are left."""
        for process in reversed(self._processes):
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=15)
            if process.poll() is None:
                process.kill()
                process.wait()
        for stray in trainers_below(self.root):
            stray.kill()

    def start_worker(self, *, work_dir: Path | None = None, **settings: str) -> Worker:
        """Start a worker; the same `work_dir` as an earlier one makes it the same machine after a restart."""
        self._workers += 1
        folder = work_dir or self.root / f"work-{self._workers}"
        environment = {
            "TUNESMITH_URL": self.url,
            "TUNESMITH_WORKER_KEY": self.worker_key,
            "TUNESMITH_WORK_DIR": str(folder),
            "TUNESMITH_GRACE_SECONDS": "30",
            "TUNESMITH_SLOTS": "2",  # one core to a trainer: threads that wait for each other crawl on a busy machine
            **settings,
        }
        name = f"worker-{self._workers}"
        command = [BIN / "tunesmith-worker", "run", "--name", name]
        return Worker(folder, self._spawn(name, command, environment), log=self.root / f"{name}.log")

    def openai(self) -> openai.OpenAI:
        """The unmodified client."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.member_key, max_retries=5)

    def register_model(self) -> None:
        """Build the tiny model and add it by hash, as the command line does."""
        folder = build_tiny_model(self.root / "tiny")
        paths = sorted(path for path in folder.iterdir() if path.is_file())
        files = [{"name": p.name, "sha256": sha256(p.read_bytes()), "bytes": p.stat().st_size} for p in paths]
        body = {"name": MODEL, "files": files, "config": json.loads((folder / "config.json").read_text())}
        with self.http(self.admin_key) as client:
            missing = client.post("/v1/models", json=body).raise_for_status().json()["tunesmith"]["missing"]
            for path, file in zip(paths, files, strict=True):
                if file["sha256"] in missing:
                    client.put(f"/v1/blobs/{file['sha256']}", content=path.read_bytes()).raise_for_status()
            model = client.post("/v1/models", json=body).raise_for_status().json()
        assert model["tunesmith"]["status"] == "ready"

    @contextlib.contextmanager
    def http(self, key: str | None = None) -> Iterator[httpx.Client]:
        headers = {"authorization": f"Bearer {key or self.member_key}"}
        with httpx.Client(base_url=self.url, headers=headers, timeout=30) as client:
            yield client

    def get(self, path: str) -> Any:
        with self.http() as client:
            return client.get(path).raise_for_status().json()

    def submit(self, *, rows: int = 40, epochs: int = 1, **tunesmith: Any) -> str:
        """Create a job through the `openai` client; returns its id."""
        with self.openai() as client:
            training = client.files.create(file=("train.jsonl", chat_rows(rows)), purpose="fine-tune")
            validation = client.files.create(file=("valid.jsonl", chat_rows(4)), purpose="fine-tune")
            job = client.fine_tuning.jobs.create(
                model=MODEL,
                training_file=training.id,
                validation_file=validation.id,
                seed=1,
                hyperparameters={"n_epochs": epochs, "batch_size": 4},
                extra_body={"tunesmith": {"method": "lora", "lora": {"rank": 4}, **tunesmith}},
            )
        return job.id

    def submit_contradiction(self, *, epochs: int, patience: int) -> str:
        """A job whose held-out answers contradict its training rows: the more it learns, the worse it gets."""
        with self.openai() as client:
            training = client.files.create(file=("train.jsonl", chat_rows(16)), purpose="fine-tune")
            contradiction = chat_rows(4).replace(b"It is", b"France? No, Paris, not")
            validation = client.files.create(file=("valid.jsonl", contradiction), purpose="fine-tune")
            asked = {"n_epochs": epochs, "batch_size": 4, "early_stopping_patience": patience}
            job = client.fine_tuning.jobs.create(
                model=MODEL,
                training_file=training.id,
                validation_file=validation.id,
                seed=1,
                method={"type": "supervised", "supervised": {"hyperparameters": asked}},
                extra_body={"tunesmith": {"method": "lora", "lora": {"rank": 4}, "learning_rate": 0.05}},
            )
        return job.id

    def cancel_everything(self) -> None:
        """Leave no job behind that a later test's worker would take."""
        with self.openai() as client:
            for job in client.fine_tuning.jobs.list(limit=100):
                if job.status in {"validating_files", "queued", "running", "paused"}:
                    client.fine_tuning.jobs.cancel(job.id)

    def job(self, job_id: str) -> Any:
        return self.get(f"/v1/fine_tuning/jobs/{job_id}")

    def attempts(self, job_id: str) -> list[Any]:
        return list(self.get(f"/v1/fine_tuning/jobs/{job_id}/attempts")["data"])

    def metrics(self, job_id: str) -> list[Any]:
        return list(self.get(f"/v1/fine_tuning/jobs/{job_id}/metrics")["data"])

    def wait_for_status(self, job_id: str, *statuses: str) -> Any:
        def look() -> Any:
            job = self.job(job_id)
            assert job["status"] in statuses or job["status"] not in {"succeeded", "failed", "cancelled"}, (
                f"{job['status']}: {job.get('error')} {job.get('tunesmith')}\n{self.logs()}"
            )
            return job if job["status"] in statuses else None

        return eventually(look, what=f"status {statuses} of {job_id}")

    def wait_for_checkpoint(self, job_id: str) -> int:
        """Wait until a checkpoint is registered; returns its step."""

        def look() -> int | None:
            data = self.get(f"/v1/fine_tuning/jobs/{job_id}/checkpoints")["data"]
            return max((point["step_number"] for point in data), default=None)

        return eventually(look, what="a checkpoint")

    def first_steps(self, job_id: str) -> list[int]:
        """The first recorded step of each attempt that recorded any, in order."""
        query = "SELECT DISTINCT ON (epoch) points FROM metric_chunks WHERE job_id = %s ORDER BY epoch, start_offset"
        with psycopg.connect(self._database_url) as connection:
            return [int(points[0]["step"]) for (points,) in connection.execute(query, (job_id,))]

    def logs(self) -> str:
        """The end of every process's output, for a failing test to show."""
        return "\n".join(f"== {log.name}\n{log.read_text()[-3000:]}" for log in sorted(self.root.glob("*.log")))

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz").is_success
        except httpx.TransportError:
            return False

    def _key(self, role: str) -> str:
        command = [BIN / "tunesmith-service", "keys", "create", "--name", role, "--role", role]
        made = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=True)
        return made.stdout.strip()

    def _spawn(
        self, name: str, command: list[Any], environment: dict[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        with (self.root / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                env={**self._environment, **(environment or {})},
                stdout=log,
                stderr=log,
            )
        self._processes.append(process)
        return process


def chat_rows(count: int) -> bytes:
    """JSONL in the API's chat form."""
    rows = (
        {
            "messages": [
                {"role": "user", "content": f"What is {number} plus one?"},
                {"role": "assistant", "content": f"It is {number + 1}."},
            ]
        }
        for number in range(count)
    )
    return "\n".join(json.dumps(row) for row in rows).encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
