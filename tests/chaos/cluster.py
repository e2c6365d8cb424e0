"""An installation with two of everything over servers of its own; any part can be killed, and comes back."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
from typer.testing import CliRunner

from tests.chaos.proxy import Proxy
from tests.chaos.quick_installation import SHORT_INTERVALS
from tests.stack.services import Services, free_port
from tests.stack.up import short_folder
from tests.stack.worker import Worker, trainers_below
from tests.waiting import eventually
from tunesmith.local.embedded.errors import EmbeddedError
from tunesmith.local.embedded.postgres import PostgresServer
from tunesmith.local.embedded.process import alive
from tunesmith.local.embedded.valkey import ValkeyServer
from tunesmith.service.cli import app as command_line
from tunesmith.service.database.migrate import upgrade

BOTH = (0, 1)
DRAIN_SECONDS = 60.0
SETTINGS = SHORT_INTERVALS | {
    "TUNESMITH_SLOTS": "1",
    "TUNESMITH_KEEPER_SECONDS": "2",  # two of them sweep
    "TUNESMITH_MAX_ATTEMPTS": "100",
    "TUNESMITH_CANCEL_GRACE_SECONDS": "5",
}


class Cluster(Services):
    """Two APIs, each behind a proxy, two keepers and two workers. `start` and `stop` are for the main thread alone."""

    def __init__(self, root: Path) -> None:
        self.postgres = PostgresServer(root / "postgres", log=root / "postgres.log")
        self.valkey = ValkeyServer(root / "valkey", log=root / "valkey.log")
        self.postgres.start()
        self.valkey.start()
        upgrade(self.postgres.url())
        super().__init__(root, database_url=self.postgres.url(), redis_url=self.valkey.url)
        self._environment |= SETTINGS
        self._ports = [free_port() for _ in BOTH]
        self.url = f"http://127.0.0.1:{self._ports[0]}"
        self._stack = contextlib.ExitStack()
        self.proxies = [self._stack.enter_context(Proxy(port)) for port in self._ports]
        self.urls = [f"http://127.0.0.1:{proxy.port}" for proxy in self.proxies]
        self.apis: dict[int, subprocess.Popen[bytes]] = {}
        self.keepers: dict[int, subprocess.Popen[bytes]] = {}
        self.workers: dict[int, Worker] = {}

    def start(self) -> None:
        """Start everything but workers, and wait until both APIs answer."""
        for number in BOTH:
            self.revive_api(number)
            self.revive_keeper(number)
        eventually(self.answers_everywhere, what=lambda: f"both APIs\n{self.logs()}")

    def stop(self) -> None:
        super().stop()
        self._stack.close()
        self.valkey.stop()
        self.postgres.stop()

    def answers_everywhere(self) -> bool:
        """Whether both APIs are ready, asked through their proxies."""
        with contextlib.suppress(httpx2.TransportError):
            return all(httpx2.get(f"{url}/readyz", timeout=10).is_success for url in self.urls)
        return False

    def revive(self) -> None:
        """Begin again whatever is dead, as an operating system's supervisor does."""
        if not alive(self.postgres.pid):
            self.revive_postgres()
        if not alive(self.valkey.pid):
            self.valkey.start()
        for number in BOTH:
            self.revive_api(number)
            self.revive_keeper(number)
            self.revive_worker(number)

    def revive_postgres(self) -> None:
        """Processes of the server that was killed may hold its memory for a moment."""
        eventually(self._try_postgres, what=lambda: f"PostgreSQL\n{self.logs()}")

    def revive_api(self, number: int) -> None:
        if number not in self.apis or self.apis[number].poll() is not None:
            self.apis[number] = self._spawn("serve", "--port", str(self._ports[number]))

    def revive_keeper(self, number: int) -> None:
        if number not in self.keepers or self.keepers[number].poll() is not None:
            self.keepers[number] = self._spawn("keeper")

    def revive_worker(self, number: int) -> None:
        """The same machine as before, behind the proxy of its number."""
        if number not in self.workers or self.workers[number].process.poll() is not None:
            folder = self.root / f"machine-{number}"
            self.workers[number] = self.start_worker(work_dir=folder, TUNESMITH_URL=self.urls[number])

    def kill_postgres(self) -> None:
        _kill(self.postgres)

    def kill_valkey(self) -> None:
        _kill(self.valkey)

    def pool_of(self, number: int) -> psutil.Process | None:
        """The process of a worker that runs attempts."""
        with contextlib.suppress(psutil.Error):
            return next(iter(psutil.Process(self.workers[number].process.pid).children()), None)
        return None

    def wait_for_silence(self, *, seconds: float) -> None:
        """Until no process of any run is left."""
        eventually(lambda: not trainers_below(self.root), seconds=seconds, what=lambda: f"no trainer\n{self.logs()}")

    def drain(self) -> list[int]:
        """End the workers in order, by one signal each; returns their exit codes.

        One that has only just begun again has no handler yet, and would end by the signal.
        """
        workers = list(self.workers.values())
        eventually(
            lambda: all(worker.said("warm_trainer.decided") for worker in workers),
            what=lambda: f"two workers that have begun\n{self.logs()}",
        )
        for worker in workers:
            worker.process.terminate()
        return [worker.process.wait(timeout=DRAIN_SECONDS) for worker in workers]

    def _key(self, role: str) -> str:
        """By the service's command in this process, which saves a start of Python for each."""
        made = CliRunner().invoke(
            command_line, ["keys", "create", "--name", role, "--role", role], env=self._environment
        )
        assert made.exit_code == 0, made.output
        return made.stdout.strip()

    def _try_postgres(self) -> bool:
        with contextlib.suppress(EmbeddedError):
            self.postgres.start()
            return True
        time.sleep(0.5)
        return False


def _kill(server: PostgresServer | ValkeyServer) -> None:
    """SIGKILL, and bury it: PostgreSQL takes a dead process that nobody waited for to be still at work."""
    os.kill(server.pid, signal.SIGKILL)
    server.stop()


@contextlib.contextmanager
def running_cluster() -> Iterator[Cluster]:
    """With the tiny model and one worker, whose start is work enough at once; `revive` begins the other one.

    Nothing of it is left afterwards.
    """
    with short_folder() as folder:
        cluster = Cluster(folder)
        try:
            cluster.start()
            cluster.register_model()
            cluster.revive_worker(0)
            yield cluster
        finally:
            cluster.stop()
