"""Which processes make up the service on one machine, in which order, with which environment."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

from tunesmith.cli.connection import Connection, read_connection, write_connection
from tunesmith.local.embedded.diagnosis import postgres_failure, valkey_failure
from tunesmith.local.embedded.errors import EmbeddedError, PortTaken, ServerFailed
from tunesmith.local.embedded.locks import DirectoryLock, read_holder
from tunesmith.local.embedded.postgres import PostgresServer
from tunesmith.local.embedded.process import Command, spawn, stop, tail, wait_until
from tunesmith.local.embedded.valkey import ValkeyServer
from tunesmith.local.up import logs, strays
from tunesmith.local.up.address import Ports, allowed_hosts, local_url, shared_url
from tunesmith.local.up.environment import base, has_engine, of_trackers, program
from tunesmith.local.up.layout import Layout
from tunesmith.local.up.supervisor import Service, Supervisor

_SERVER_START_SECONDS = 60.0
_API_START_SECONDS = 60.0
_ONE_SHOT_SECONDS = 120.0
_DRAIN_SECONDS = 130.0  # a little more than a worker gives its run to checkpoint before it kills it
_CONNECTIONS = 80  # of the hundred that PostgreSQL takes; the rest is for the keeper and for whoever looks
_ENGINE_KEY = "TUNESMITH_INFERENCE_ENGINE_KEY"
_HUB_TOKEN = "TUNESMITH_HUB_TOKEN"  # noqa: S105 - the name of a variable
_STRAY_GRACE_SECONDS = 10.0


class Stack:
    """The service in one data directory. Call the start methods in order; the supervisor stops in reverse."""

    def __init__(
        self,
        layout: Layout,
        *,
        supervisor: Supervisor,
        host: str,
        ports: Ports,
        api_processes: int = 1,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.url = local_url(host, ports.public)
        self.worker_url = local_url(host, ports.workers)
        self.shared_worker_url = environment.get("TUNESMITH_WORKER_URL") or shared_url(host, ports.workers)
        self._layout = layout
        self._supervisor = supervisor
        self._host = host
        self._ports = ports
        self._api_processes = api_processes
        self._base = base(environment, data_dir=layout.root)
        self._trackers = of_trackers(environment)
        self._engine_key = environment.get(_ENGINE_KEY)  # of an engine elsewhere: for its one reader alone
        self._hub_token = environment.get(_HUB_TOKEN)  # as well: for the API that fetches models
        self.valkey = ValkeyServer(layout.valkey, log=layout.log("valkey"), environment=self._base)
        self.postgres = PostgresServer(layout.postgres, log=layout.log("postgres"), environment=self._base)

    def start_servers(self) -> None:
        """PostgreSQL and Valkey, in parallel. Keys of a database that is gone are forgotten."""
        self.valkey.prepare()
        self._supervisor.start(self._valkey_service())
        if self.postgres.prepare():
            for key in self._layout.keys.glob("*.key"):
                key.unlink()
        self._supervisor.start(self._postgres_service())
        self._supervisor.wait_ready("valkey", "postgres", timeout_seconds=_SERVER_START_SECONDS)

    def migrate(self) -> None:
        """Bring the database to this version's schema. Raises ServerFailed with the end of the log."""
        log = self._layout.log("migrate")
        logs.rotate(log)
        self._finish(self._one_shot("tunesmith-service", "migrate", log=log), what="The migration", log=log)

    def mint_keys(self) -> None:
        """One admin key and one worker key, made once and kept."""
        admin, worker = (self._layout.key(role) for role in ("admin", "worker"))
        if admin.exists() and worker.exists():
            return
        log = self._layout.log("keys")
        files = ("--admin-file", str(admin), "--worker-file", str(worker))
        self._finish(self._one_shot("tunesmith-service", "keys", "first", *files, log=log), what="Making keys", log=log)

    def start_api(self) -> None:
        """The API: processes for people that share a port, and one for workers, whom nobody else's requests hold up.

        Returns at once, `wait_for_api` waits for it.
        """
        for number in range(1, self._api_processes + 1):
            name = "api" if number == 1 else f"api-{number}"
            self._supervisor.start(self._api_service(name, "public", port=self._ports.public, url=self.url))
        self._supervisor.start(
            self._api_service("worker-api", "workers", port=self._ports.workers, url=self.worker_url)
        )

    def wait_for_api(self) -> None:
        """Until /readyz says yes everywhere."""
        names = [f"api-{number}" for number in range(2, self._api_processes + 1)]
        self._supervisor.wait_ready("api", *names, "worker-api", timeout_seconds=_API_START_SECONDS)

    def start_keeper(self) -> None:
        """The keeper: wake-ups, leases, outbox."""
        self._supervisor.start(self._service("keeper", ("tunesmith-service", "keeper"), self._service_environment()))

    def start_worker(self) -> None:
        """One worker for this machine's hardware."""
        self._supervisor.start(
            self._service(
                "worker",
                ("tunesmith-worker", "run"),
                {**self._worker_environment(), **self._trackers, "REDIS_URL": self.valkey.url},
                grace_seconds=_DRAIN_SECONDS,
                hurry_signal=signal.SIGQUIT,
            )
        )

    def start_inference(self) -> bool:
        """One inference worker beside the worker, where there is an engine and it is wanted."""
        if self._base.get("TUNESMITH_INFERENCE") == "off" or not has_engine(self._base):
            return False
        key = {_ENGINE_KEY: self._engine_key} if self._engine_key else {}
        self._supervisor.start(
            self._service("inference", ("tunesmith-worker", "serve"), {**self._worker_environment(), **key})
        )
        return True

    def connection(self) -> Connection:
        """How to reach it as its admin."""
        key = self._layout.key("admin").read_text().strip()
        return Connection(base_url=f"{self.url}/v1", api_key=key, worker_url=self.worker_url)

    def publish(self) -> Path:
        """Write connection.json."""
        return write_connection(self._layout.root, self.connection())

    def _api_service(self, name: str, routes: str, *, port: int, url: str) -> Service:
        words = ("tunesmith-service", "serve", "--host", self._host, "--port", str(port), "--routes", routes)
        token = {_HUB_TOKEN: self._hub_token} if self._hub_token and routes == "public" else {}
        return self._service(
            name,
            (*words, *(("--share-port",) if self._api_processes > 1 and routes == "public" else ())),
            {**self._service_environment(), **token},
            ready=lambda _: _answers(url, "/readyz"),
            explain=lambda log: self._explain_api(name, log, port=port),
        )

    def _postgres_service(self) -> Service:
        server = self.postgres
        return Service(
            name="postgres",
            command=server.command,
            log=server.log,
            ready=server.ready,
            before_start=server.end_stale,
            explain=lambda log: postgres_failure("PostgreSQL did not start", log=log, data=server.data),
            stop_signal=signal.SIGINT,
            hurry_signal=signal.SIGQUIT,
            grace_seconds=30.0,
        )

    def _valkey_service(self) -> Service:
        server = self.valkey
        return Service(
            name="valkey",
            command=server.command,
            log=server.log,
            ready=server.ready,
            before_start=server.prepare,
            explain=lambda log: valkey_failure("Valkey did not start", log=log),
        )

    def _service(
        self,
        name: str,
        words: tuple[str, ...],
        variables: Mapping[str, str],
        *,
        ready: Callable[[subprocess.Popen[bytes]], bool] = lambda process: process.poll() is None,
        explain: Callable[[Path], EmbeddedError] | None = None,
        hurry_signal: signal.Signals = signal.SIGTERM,
        grace_seconds: float = 15.0,
    ) -> Service:
        command = Command(argv=(program(words[0]), *words[1:]), environment={**self._base, **variables})
        return Service(
            name=name,
            command=lambda: command,
            log=self._layout.log(name),
            ready=ready,
            explain=explain or (lambda log: _ended(name, log)),
            hurry_signal=hurry_signal,
            grace_seconds=grace_seconds,
        )

    def _worker_environment(self) -> dict[str, str]:
        return {
            "TUNESMITH_URL": self.worker_url,
            "TUNESMITH_WORKER_KEY": self._layout.key("worker").read_text().strip(),
            "TUNESMITH_WORK_DIR": str(self._layout.work),
        }

    def _service_environment(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.postgres.url(),
            "REDIS_URL": self.valkey.url,
            "TUNESMITH_STORE": f"file://{quote(str(self._layout.store))}",
            "TUNESMITH_POOL_SIZE": self._base.get("TUNESMITH_POOL_SIZE") or str(self._pool_size),
            "TUNESMITH_SPOOL_DIR": str(self._layout.spool),
            "TUNESMITH_WORKER_URL": self.shared_worker_url,
            "TUNESMITH_ALLOWED_HOSTS": self._base.get("TUNESMITH_ALLOWED_HOSTS") or allowed_hosts(self._host),
        }

    @property
    def _pool_size(self) -> int:
        """Of each process: together no more than PostgreSQL takes."""
        return max(4, min(20, _CONNECTIONS // (self._api_processes + 1)))

    def _one_shot(self, *words: str, log: Path) -> subprocess.Popen[bytes]:
        environment = {**self._base, **self._service_environment()}
        with log.open("ab") as errors:  # stdout may be a key, and a key belongs in no log
            return subprocess.Popen(
                [program(words[0]), *words[1:]],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )

    def _finish(self, process: subprocess.Popen[bytes], *, what: str, log: Path) -> str:
        try:
            output, _ = process.communicate(timeout=_ONE_SHOT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise ServerFailed(f"{what} took longer than {_ONE_SHOT_SECONDS:.0f} s.", hint=f"see {log}") from None
        if process.returncode != 0:
            raise ServerFailed(f"{what} failed:\n{tail(log, lines=6)}", hint=f"the whole story is in {log}")
        return output.decode()

    def _explain_api(self, name: str, log: Path, *, port: int) -> EmbeddedError:
        if "address already in use" in tail(log).lower():
            return PortTaken(f"Port {port} was taken just now by another program.", hint="use --port 0")
        return _ended(name, log)


@contextlib.contextmanager
def running_stack(
    data_dir: Path,
    *,
    port: int = 0,
    worker: bool = True,
    environment: Mapping[str, str] = os.environ,
    timeout_seconds: float = 120.0,
) -> Iterator[Connection]:
    """Run `tunesmith up` in `data_dir` as a process of its own, and stop it at the end.

    Yields when the API is ready. Call it from the main thread: the stack ends with the thread that started it.
    Raises ServerFailed with what `up` printed when it does not get that far.
    """
    with tempfile.TemporaryDirectory(prefix="tunesmith-up-") as folder:
        log = Path(folder) / "up.log"
        process = spawn(_up_command(data_dir, port=port, worker=worker, environment=environment), log=log)
        try:
            yield _wait_for(process, data_dir=data_dir, log=log, timeout_seconds=timeout_seconds)
        finally:
            stop(process, first=signal.SIGTERM, grace_seconds=_DRAIN_SECONDS + 30)
            _sweep(data_dir)


def clean_up_after_an_earlier_run(data_dir: Path) -> int:
    """End whatever a killed `up` left running. Call with the lock held. Returns how many processes there were."""
    return strays.end(data_dir, grace_seconds=_STRAY_GRACE_SECONDS)


def _sweep(data_dir: Path) -> None:
    """End what is left, unless the directory belongs to another `up`, which is then why ours did not run."""
    lock = DirectoryLock(data_dir)
    if read_holder(data_dir) is None:  # never ran there, or ended by itself with everything swept
        return
    try:
        lock.acquire()
    except EmbeddedError:
        return
    clean_up_after_an_earlier_run(data_dir)
    lock.release()


def _up_command(data_dir: Path, *, port: int, worker: bool, environment: Mapping[str, str]) -> Command:
    words = [sys.executable, "-m", "tunesmith.local.up", "--data-dir", str(data_dir), "--port", str(port)]
    return Command(argv=(*words, *(() if worker else ("--no-worker",))), environment=environment)


def _wait_for(process: subprocess.Popen[bytes], *, data_dir: Path, log: Path, timeout_seconds: float) -> Connection:
    def ready() -> bool:
        holder = read_holder(data_dir)
        return holder is not None and holder.pid == process.pid and holder.ready

    wait_until(lambda: ready() or process.poll() is not None, timeout_seconds=timeout_seconds)
    connection = read_connection(data_dir) if ready() else None
    if connection is None:
        raise ServerFailed(f"`tunesmith up` did not become ready. It said:\n{tail(log, lines=40)}")
    return connection


def _answers(url: str, path: str) -> bool:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _ended(name: str, log: Path) -> ServerFailed:
    return ServerFailed(
        f"The {name} ended at once; its last words:\n{tail(log, lines=6)}", hint=f"the whole story is in {log}"
    )
