"""The control plane as tests drive it: a live API on a migrated database, and what a worker says to it."""

import asyncio
import hashlib
import json
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import psycopg
import pytest
import uvicorn
from openai import OpenAI
from psycopg import sql

from tests.machines import CPU
from tests.waiting import eventually
from tunesmith.local.embedded.postgres import PostgresServer
from tunesmith.service import logs
from tunesmith.service.announcer import announcer_for
from tunesmith.service.app import create_app
from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.database.tables import Row
from tunesmith.service.database.transactions import Database, create_engine
from tunesmith.service.keeper.chore import KeeperContext
from tunesmith.service.settings import ProjectLimits, Settings
from tunesmith.tuning.errors import Failure
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.messages import (
    AttemptHeartbeat,
    Claim,
    ClaimRequest,
    FileRef,
    FinishReport,
    RegisterWorker,
    WorkerHeartbeat,
)
from tunesmith.tuning.state import Outcome, Phase
from tunesmith.tuning.values.base import Value
from tunesmith.tuning.values.hashes import sha256_of_text
from tunesmith.tuning.values.json_objects import Json

T = TypeVar("T")

TINY_CONFIG: Json = {
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


def chat_rows(count: int = 20) -> bytes:
    """A good training file."""
    rows = [
        {"messages": [{"role": "user", "content": f"{i} + 1?"}, {"role": "assistant", "content": str(i + 1)}]}
        for i in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class ControlPlane:
    """A live API, its database, and a key of every kind."""

    url: str
    settings: Settings
    app: Any
    keys: dict[str, str] = field(default_factory=dict)
    with_model: "Written | None" = None
    _kept: psycopg.Connection | None = None
    _clients: list[OpenAI] = field(default_factory=list)

    def http(self, key: str = "member") -> httpx2.Client:
        """A plain client with the named key, or with a bare token."""
        token = self.keys.get(key, key)
        headers = {"authorization": f"Bearer {token}"}
        return httpx2.Client(
            base_url=self.url, headers=headers, timeout=30, verify=False
        )  # plain HTTP: spare the TLS set-up

    def openai(self, key: str = "member", *, max_retries: int = 0) -> OpenAI:
        """An unmodified client of the API."""
        client = OpenAI(base_url=f"{self.url}/v1", api_key=self.keys[key], max_retries=max_retries)
        self._clients.append(client)
        return client

    def request(self, method: str, path: str, *, key: str = "member", **options: Any) -> httpx2.Response:
        with self.http(key) as client:
            return client.request(method, path, **options)

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the database itself."""
        if threading.current_thread() is threading.main_thread():
            rows = _rows(self._connection(), statement, values)
            self._connection().execute("RESET ALL")  # what a statement has set holds for itself
            return rows
        with psycopg.connect(self.settings.database_url, autocommit=True) as connection:
            return _rows(connection, statement, values)

    def snapshot(self) -> dict[str, list[str]]:
        """Every row of every table as text, but for when keys were last used. Wake-ups go after the answers."""
        eventually(lambda: not self.sql("SELECT 1 FROM outbox WHERE topic = 'wake' AND delivered_at IS NULL"))
        tables = [table.name for table in Row.metadata.sorted_tables if table.name != "api_keys"]
        return {name: [row[0] for row in self.sql(f"SELECT t::text FROM {name} t ORDER BY 1")] for name in tables}

    def run(self, work: Callable[[Database], Awaitable[T]]) -> T:
        """Run a use case against the same database, in an event loop of its own."""

        async def inside() -> T:
            database = Database(create_engine(self.settings.database_url, pool_size=4, pool_wait_seconds=5))
            try:
                return await work(database)
            finally:
                await database.close()

        return asyncio.run(inside())

    def keep(self, work: Callable[[KeeperContext], Awaitable[T]]) -> T:
        """Run one of the keeper's chores."""
        announcer = announcer_for(self.settings.redis_url)
        blobs = BlobStore.from_url(self.settings.store)
        return self.run(lambda database: work(KeeperContext(self.settings, database, announcer, blobs)))

    def upload(self, data: bytes | None = None, *, key: str = "member", name: str = "rows.jsonl") -> str:
        """A training file; returns its id."""
        body = data if data is not None else chat_rows()
        response = self.request(
            "POST", "/v1/files", key=key, data={"purpose": "fine-tune"}, files={"file": (name, body)}
        )
        assert response.status_code == 200, response.text
        return str(response.json()["id"])

    def add_model(
        self, name: str = "tiny-llama", *, config: Json | None = None, more: dict[str, bytes] | None = None
    ) -> str:
        """A registered base model; its weights are a few bytes, because only a worker reads them."""
        contents = {"config.json": json.dumps(config or TINY_CONFIG).encode(), "model.safetensors": name.encode()}
        contents |= more or {}
        files = [FileRef(name=n, sha256=sha256(d), bytes=len(d)).model_dump() for n, d in contents.items()]
        body = {"name": name, "files": files, "config": config or TINY_CONFIG}
        with self.http("admin") as client:
            for digest in client.post("/v1/models", json=body).json()["tunesmith"]["missing"]:
                data = next(d for d in contents.values() if sha256(d) == digest)
                client.put(f"/v1/blobs/{digest}", content=data).raise_for_status()
            assert client.post("/v1/models", json=body).json()["tunesmith"]["status"] == "ready"
        return name

    def create_job(self, *, key: str = "member", **fields: Any) -> Json:
        """A waiting job."""
        body = {
            "model": "tiny-llama",
            "training_file": fields.pop("training_file", None) or self.upload(key=key),
            **fields,
        }
        response = self.request("POST", "/v1/fine_tuning/jobs", key=key, json=body)
        assert response.status_code == 200, response.text
        return dict(response.json())

    def job(self, job_id: str, *, key: str = "member") -> Json:
        return dict(self.request("GET", f"/v1/fine_tuning/jobs/{job_id}", key=key).json())

    def messages(self, job_id: str) -> list[str]:
        """The job's history, oldest first."""
        response = self.request("GET", f"/v1/fine_tuning/jobs/{job_id}/events?order=asc&limit=1000")
        return [event["message"] for event in response.json()["data"]]

    def worker(self, worker_id: str = "worker-1", *, hardware: HardwareProfile = CPU) -> "WorkerSide":
        """A registered worker."""
        worker = WorkerSide(self, worker_id, hardware=hardware)
        worker.register()
        return worker

    def claimed(self, worker_id: str = "worker-1", **fields: Any) -> "AttemptSide":
        """A job in the hands of a worker."""
        worker = self.worker(worker_id)
        self.create_job(**fields)
        attempt = worker.claim()
        assert attempt is not None
        return attempt

    def expire_leases(self) -> None:
        """Let time pass, in which the API serves: every open lease has run out."""
        self.sql("UPDATE attempts SET lease_expires_at = now() - interval '1 second' WHERE ended_at IS NULL")
        self.serve_steadily()

    @contextmanager
    def served_at(self, url: str, **changes: Any) -> Iterator["ControlPlane"]:
        """The same behind another address, with a connection of its own for asking."""
        with closing(replace(self, url=url, _kept=None, _clients=[], **changes)) as other:
            yield other

    def close(self) -> None:
        """Close the clients, and the connection that is kept for asking."""
        for client in self._clients:
            client.close()
        if self._kept is not None:
            self._kept.close()

    def _connection(self) -> psycopg.Connection:
        """Opened once, for opening takes longer than most questions; anew when a test has ended it."""
        if self._kept is None or self._kept.closed:
            self._kept = psycopg.connect(self.settings.database_url, autocommit=True, prepare_threshold=None)
        return self._kept

    def serve_steadily(self, *, for_seconds: float = 3600, until_seconds_ago: float = 0) -> None:
        """A process of the API has said for so long, and until so long ago, that it serves."""
        beat = """
            INSERT INTO api_beats VALUES ('an-api', now() - %s * interval '1 second', %s)
            ON CONFLICT (process) DO UPDATE SET (beat_at, steady_seconds) = (EXCLUDED.beat_at, EXCLUDED.steady_seconds)
        """
        self.sql(beat, until_seconds_ago, for_seconds)


def _rows(connection: psycopg.Connection, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    cursor = connection.execute(statement, values)
    return list(cursor.fetchall()) if cursor.description else []


@dataclass(frozen=True)
class Written:
    """Rows as JSON by table, and files: what a first call wrote, to be put there again without asking the API."""

    rows: dict[str, str]
    files: dict[Path, bytes]


class WorkerSide:
    """What a worker process says."""

    def __init__(self, plane: ControlPlane, worker_id: str, *, hardware: HardwareProfile) -> None:
        self.plane = plane
        self.id = worker_id
        self.hardware = hardware
        self.incarnation = secrets.token_hex(4)
        self.last_base: str | None = None

    def register(self) -> Json:
        request = RegisterWorker(
            worker_id=self.id, incarnation=self.incarnation, hostname="h", version="0", hardware=self.hardware
        )
        response = self._post("/internal/workers", request)
        assert response.status_code == 200, response.text
        return dict(response.json())

    def beat(self, *, busy_slots: int = 0, draining: bool = False) -> httpx2.Response:
        report = WorkerHeartbeat(
            incarnation=self.incarnation, hardware=self.hardware, busy_slots=busy_slots, draining=draining
        )
        return self._post(f"/internal/workers/{self.id}/heartbeat", report)

    def ask(self, *, claim_id: str | None = None, lease_token: str | None = None) -> httpx2.Response:
        request = ClaimRequest(
            worker_id=self.id,
            incarnation=self.incarnation,
            hardware=self.hardware,
            claim_id=claim_id,
            last_base=self.last_base,
            lease_token=lease_token,
        )
        return self._post("/internal/claims", request)

    def claim(self, *, claim_id: str | None = None, lease_token: str | None = None) -> "AttemptSide | None":
        response = self.ask(claim_id=claim_id, lease_token=lease_token)
        assert response.status_code in (200, 204), response.text
        return AttemptSide(self.plane, Claim.model_validate_json(response.content)) if response.content else None

    def _post(self, path: str, body: Value) -> httpx2.Response:
        return self.plane.request("POST", path, key="worker", content=body.model_dump_json())


class AttemptSide:
    """What a worker says about one attempt, with the lease token."""

    def __init__(self, plane: ControlPlane, claim: Claim) -> None:
        self.plane = plane
        self.claim = claim
        self.job_id = claim.job_id

    def post(self, name: str, body: Value | Json) -> httpx2.Response:
        content = body.model_dump_json() if isinstance(body, Value) else json.dumps(body)
        return self.plane.request("POST", self.path(name), key=self.claim.lease_token, content=content)

    def path(self, name: str) -> str:
        return f"/internal/attempts/{self.claim.attempt_id}/{name}"

    def put(self, data: bytes, *, name: str = "file") -> FileRef:
        file = FileRef(name=name, sha256=sha256(data), bytes=len(data))
        response = self.plane.request(
            "PUT", self.path(f"blobs/{file.sha256}"), key=self.claim.lease_token, content=data
        )
        assert response.status_code == 204, response.text
        return file

    def get(self, digest: str, **headers: str) -> httpx2.Response:
        return self.plane.request("GET", self.path(f"blobs/{digest}"), key=self.claim.lease_token, headers=headers)

    def heartbeat(self, *, step: int | None = None, phase: Phase = Phase.TRAINING) -> httpx2.Response:
        return self.post("heartbeat", AttemptHeartbeat(phase=phase, step=step, total_steps=96, eta_seconds=30.0))

    def metrics(self, points: list[Json], *, start: int = 0, end: int | None = None) -> httpx2.Response:
        return self.post("metrics", {"start_offset": start, "end_offset": end or start + 100, "points": points})

    def checkpoint(self, step: int, **files: bytes) -> httpx2.Response:
        manifest = self.put(f"manifest {step}".encode(), name="manifest.json")
        more = [self.put(data, name=name) for name, data in files.items()]
        body = {
            "step": step,
            "manifest_sha256": manifest.sha256,
            "files": [file.model_dump() for file in (manifest, *more)],
            "metrics": {"valid_loss": 1.5},
        }
        return self.post("checkpoints", body)

    def artifact(self, kind: str = "adapter", *, weights: bytes | None = None, **manifest: Any) -> httpx2.Response:
        """Weights and the manifest that says what they were made of; `manifest` replaces parts of it."""
        content = weights or f"weights of {self.claim.attempt_id}".encode()
        file = self.put(content, name="adapter_model.safetensors")
        made_of = json.dumps({**self.manifest({file.name: file.sha256}), **manifest}).encode()
        files = [file.model_dump(), self.put(made_of, name="manifest.json").model_dump()]
        return self.post("artifacts", {"kind": kind, "files": files})

    def manifest(self, files: dict[str, str]) -> Json:
        """As the trainer writes it."""
        claim = self.claim
        data = {"training_file": claim.training_file, "validation_file": claim.validation_file}
        base = claim.base_model.base_files or claim.base_model.files
        continued = claim.base_model.files if claim.base_model.base_files else ()
        return {
            "job_id": claim.job_id,
            "plan": claim.plan.model_dump(mode="json"),
            "seed": claim.plan.seed,
            "data": {name: file.sha256 for name, file in data.items() if file},
            "base_model": {file.name: file.sha256 for file in base},
            "continued_from": {file.name: file.sha256 for file in continued} or None,
            "versions": {"torch": "2.13.0"},
            "files": files,
        }

    def finish(self, outcome: Outcome, *, failure: Failure | None = None) -> httpx2.Response:
        report = FinishReport(outcome=outcome, failure=failure, trained_tokens=1234, result={"steps": 96})
        return self.post("finish", report)

    def succeed(self) -> None:
        assert self.artifact().status_code == 204
        response = self.finish(Outcome.SUCCEEDED)
        assert response.status_code == 204, response.text


@pytest.fixture(scope="session")
def live_control_plane(
    postgres_server: PostgresServer, redis_url: str, _migrated: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    """One API for all tests of the control plane, on a database that nobody else uses."""
    name = f"control_{secrets.token_hex(4)}"
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(_migrated))
    with psycopg.connect(postgres_server.url("postgres"), autocommit=True) as connection:
        connection.execute(create)
    store: Path = tmp_path_factory.mktemp("store")
    settings = Settings(
        database_url=postgres_server.url(name),
        redis_url=redis_url,
        store=f"file://{store}",
        pool_size=40,
        pool_wait_seconds=20,
        max_upload_bytes=64 * 1024**2,
        api_beat_seconds=86400,  # tests say themselves when an API served: `serve_steadily`
    )
    logs.configure(log_format="console", level="warning")
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    plane = ControlPlane(url=f"http://127.0.0.1:{port}", settings=settings, app=app)
    yield plane
    plane.close()
    server.should_exit = True
    thread.join(10)


def make_keys(plane: ControlPlane) -> dict[str, str]:
    """A key of every kind, as rows."""
    with psycopg.connect(plane.settings.database_url) as connection:
        return insert_keys(connection)


def insert_keys(connection: psycopg.Connection) -> dict[str, str]:
    roles = {
        "admin": ("admin", "acme"),
        "member": ("member", "acme"),
        "worker": ("worker", "acme"),
        "stranger": ("admin", "other"),
    }
    keys = {name: f"ts-{secrets.token_urlsafe(32)}" for name in roles}
    connection.cursor().executemany(
        "INSERT INTO api_keys (id, name, role, project, key_sha256, hint) VALUES (%s, %s, %s, %s, %s, %s)",
        [(f"key-{name}", name, *roles[name], sha256_of_text(key), key[-4:]) for name, key in keys.items()],
    )
    return keys


@pytest.fixture
def plane(live_control_plane: ControlPlane) -> ControlPlane:
    """The live API over empty tables, with fresh keys and no model."""
    # Deleting a few rows is much quicker than TRUNCATE, which makes new files for every table and index.
    deletes = "; ".join(f"DELETE FROM {table.name}" for table in Row.metadata.sorted_tables)
    with psycopg.connect(live_control_plane.settings.database_url) as connection:
        connection.execute(f"SET session_replication_role = replica; {deletes}")
        live_control_plane.keys = insert_keys(connection)
    return live_control_plane


@pytest.fixture
def control_plane(plane: ControlPlane) -> ControlPlane:
    """The same with the model `tiny-llama` ready: registered over the API once, and its rows put back afterwards."""
    if plane.with_model is None:
        plane.add_model()
        plane.with_model = _written(plane)
    else:
        _write(plane, plane.with_model)
    return plane


def _written(plane: ControlPlane) -> Written:
    tables = [table.name for table in Row.metadata.sorted_tables if table.name not in ("api_keys", "api_beats")]
    found = {name: plane.sql(f"SELECT json_agg(t)::text FROM {name} t")[0][0] for name in tables}
    rows = {name: text for name, text in found.items() if text}
    digests = {blob["sha256"] for blob in json.loads(rows["blobs"])}
    store = Path(plane.settings.store.removeprefix("file://"))
    return Written(rows, {path: path.read_bytes() for path in store.rglob("*") if path.name in digests})


def _write(plane: ControlPlane, written: Written) -> None:
    with psycopg.connect(plane.settings.database_url) as connection:
        connection.execute("SET session_replication_role = replica")
        for name, rows in written.rows.items():
            into = sql.SQL("INSERT INTO {0} SELECT * FROM json_populate_recordset(NULL::{0}, %s::json)")
            connection.execute(into.format(sql.Identifier(name)), [rows])
    for path, content in written.files.items():
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


@pytest.fixture
def limited(live_control_plane: ControlPlane) -> Iterator[Callable[..., None]]:
    """Sets what the project acme may have, for one test."""
    state = live_control_plane.app.state
    settings = state.settings

    def limit(**limits: int) -> None:
        state.settings = settings.model_copy(update={"project_limits": {"acme": ProjectLimits(**limits)}})

    yield limit
    state.settings = settings
