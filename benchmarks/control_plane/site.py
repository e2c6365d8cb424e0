"""A service of its own on an embedded PostgreSQL and Valkey, filled by SQL, with the CPU time of each part."""

import contextlib
import hashlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import psycopg

from tunesmith.local.embedded.postgres import PostgresServer
from tunesmith.local.embedded.valkey import ValkeyServer
from tunesmith.tuning.hardware import Cpu, HardwareProfile
from tunesmith.tuning.messages import ClaimRequest, RegisterWorker
from tunesmith.tuning.values.units import GIB

MODEL, WORKER = "load-base", "load-worker"
_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6,
}
_HARDWARE = HardwareProfile(
    cpu=Cpu(model="load", cores=2, memory_total_bytes=16 * GIB, memory_free_bytes=12 * GIB),
    installed={"torch": "2.13.0"},
    disk_free_bytes=100 * GIB,
)
_COPIES = """
INSERT INTO jobs SELECT (jsonb_populate_record(job, jsonb_build_object(
    'id', 'ftjob-' || lpad(to_hex(number), 32, '0'), 'state', %(state)s::text,
    'finished_at', CASE WHEN %(state)s = 'cancelled' THEN now() END,
    'labels', jsonb_build_object('shard', (number %% 500)::text)))).*
FROM jobs job, generate_series(1, %(count)s) number WHERE job.id = %(first)s
"""
# The newest of the copies have run: what runs measured is asked for at every submit and every claim.
_RUNS, _MEASURED = 5000, {"peak_memory_bytes": 2**30, "tokens_per_second": 1000.0, "training_seconds": 60.0}
_ATTEMPTS = """
INSERT INTO attempts SELECT (jsonb_populate_record(attempt, jsonb_build_object(
    'id', 'attempt-' || job.id, 'job_id', job.id, 'epoch', 1, 'claim_id', NULL,
    'ended_at', now() - interval '1 minute' * row_number() OVER (ORDER BY job.id DESC),
    'outcome', 'succeeded', 'result', %(result)s::jsonb))).*
FROM attempts attempt, (SELECT id FROM jobs WHERE state = 'cancelled' ORDER BY id DESC LIMIT %(runs)s) job
WHERE attempt.id = (SELECT min(id) FROM attempts)
"""

_KEY = """
INSERT INTO api_keys (id, name, role, project, key_sha256, hint)
VALUES (%(role)s, %(role)s, %(role)s, 'default', %(sha256)s, 'load')
"""


@dataclass(frozen=True)
class Spent:
    """CPU seconds so far."""

    api: float
    postgres: float

    def __sub__(self, earlier: "Spent") -> "Spent":
        return Spent(self.api - earlier.api, self.postgres - earlier.postgres)


class Site:
    """One running service with a model, a file, a worker and as many jobs as were asked for."""

    def __init__(self, *, port: int, database_url: str, keys: dict[str, str], processes: dict[str, list[int]]) -> None:
        self.port, self.keys = port, keys
        self._database_url, self._processes = database_url, processes
        self._http = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)

    def prepare(self) -> None:
        """Register the model and a worker, and upload a file."""
        parts = {"config.json": json.dumps(_CONFIG).encode(), "model.safetensors": b"load"}
        files = [{"name": name, "sha256": _sha256(data), "bytes": len(data)} for name, data in parts.items()]
        body = {"name": MODEL, "files": files, "config": _CONFIG}
        self.ask("POST", "/v1/models", key="admin", json=body)
        for data in parts.values():
            self.ask("PUT", f"/v1/blobs/{_sha256(data)}", key="admin", content=data)
        self.ask("POST", "/v1/models", key="admin", json=body)
        rows = "".join(json.dumps({"prompt": f"{n} + 1 = ", "completion": f"{n + 1}"}) + "\n" for n in range(100))
        upload = self.ask("POST", "/v1/files", data={"purpose": "fine-tune"}, files={"file": ("rows.jsonl", rows)})
        self.file = str(upload["id"])
        worker = RegisterWorker(
            worker_id=WORKER, incarnation="1", hostname="load", version="0", hardware=_HARDWARE, slots=1000
        )
        self.ask("POST", "/internal/workers", key="worker", content=worker.model_dump_json())

    def fill(self, count: int, *, state: str) -> list[str]:
        """Copy one job so often, with runs of those that have ended; the ids of some of the copies."""
        job = self.ask("POST", "/v1/fine_tuning/jobs", json={"model": MODEL, "training_file": self.file})
        with psycopg.connect(self._database_url, autocommit=True) as connection:
            connection.execute(_COPIES, {"state": state, "count": count, "first": job["id"]})
            connection.execute(_ATTEMPTS, {"runs": _RUNS, "result": json.dumps(_MEASURED)})
            connection.execute("VACUUM ANALYZE jobs")
            connection.execute("VACUUM ANALYZE attempts")
            some = connection.execute("SELECT id FROM jobs WHERE state = %s ORDER BY md5(id) LIMIT 50", [state])
            return [row[0] for row in some]

    def claim(self, count: int) -> list[dict[str, str]]:
        """Take so many jobs and keep their leases."""
        claims = [
            self.ask("POST", "/internal/claims", key="worker", content=self.claim_request()) for _ in range(count)
        ]
        for one in claims:  # long runs, of which few points become events
            beat = {"phase": "training", "total_steps": 10**6}
            path = f"/internal/attempts/{one['attempt_id']}/heartbeat"
            self.ask("POST", path, key=one["lease_token"], json=beat)
        return [{"job_id": one["job_id"], "id": one["attempt_id"], "token": one["lease_token"]} for one in claims]

    @staticmethod
    def claim_request() -> str:
        """What the worker says to get a job."""
        return ClaimRequest(worker_id=WORKER, incarnation="1", hardware=_HARDWARE).model_dump_json()

    def ask(self, method: str, path: str, *, key: str = "member", **options: Any) -> Any:
        """One request, answered well."""
        headers = {"authorization": f"Bearer {self.keys.get(key, key)}"}
        reply = self._http.request(method, path, headers=headers, **options)
        assert reply.is_success, reply.text
        return reply.json() if reply.content else None

    def spent(self) -> Spent:
        """CPU time of the API and of all of PostgreSQL."""
        return Spent(*(sum(map(_cpu_seconds, self._processes[part])) for part in ("api", "postgres")))


@contextlib.contextmanager
def running_site(source: Path, *, processes: int = 1) -> Iterator[Site]:
    """The service of the checkout in `source`, on an empty database, with so many processes of the API."""
    with tempfile.TemporaryDirectory(prefix="ts-load-") as name:
        root = Path(name)
        root.chmod(0o755)  # PostgreSQL may run as another user
        with (
            PostgresServer(root / "pg", log=root / "postgres.log") as postgres,
            ValkeyServer(root / "vk", log=root / "valkey.log") as valkey,
        ):
            environment = {
                **os.environ,
                "DATABASE_URL": postgres.url(),
                "REDIS_URL": valkey.url,
                "TUNESMITH_STORE": f"file://{root / 'store'}",
                "TUNESMITH_LEASE_SECONDS": "600",
                "TUNESMITH_LOG_LEVEL": "warning",
            }
            subprocess.run([*_COMMAND, "migrate"], env=environment, cwd=source, check=True)
            keys = _keys(postgres.url())
            port = free_port()
            with contextlib.ExitStack() as stack:
                api = [
                    stack.enter_context(_api(source, environment, port=port, log=root / f"api-{number}.log"))
                    for number in range(processes)
                ]
                site = Site(
                    port=port,
                    database_url=postgres.url(),
                    keys=keys,
                    processes={"api": api, "postgres": [postgres.pid]},
                )
                site.prepare()
                yield site


@contextlib.contextmanager
def _api(source: Path, environment: dict[str, str], *, port: int, log: Path) -> Iterator[int]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*_COMMAND, "serve", "--port", str(port), "--share-port"],
            env=environment,
            cwd=source,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + 60
        while not _is_ready(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the API did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait(timeout=30)


def _keys(database_url: str) -> dict[str, str]:
    keys = {role: f"ts-{secrets.token_urlsafe(32)}" for role in ("member", "admin", "worker")}
    with psycopg.connect(database_url, autocommit=True) as connection:
        for role, key in keys.items():
            values = {"role": role, "sha256": _sha256(key.encode())}
            connection.execute(_KEY, values)
    return keys


_COMMAND = (sys.executable, "-c", "from tunesmith.service.cli import main; main()")


def _is_ready(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).is_success
    except httpx2.TransportError:
        return False


def _cpu_seconds(pid: int) -> float:
    process = psutil.Process(pid)
    total = 0.0
    for part in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = part.cpu_times()
            total += times.user + times.system
    own = process.cpu_times()
    return total + own.children_user + own.children_system


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
