"""One `tunesmith up` as an operator runs it, whose every process can be found, killed and waited for."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
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

from tunesmith.cli.connection import Connection, read_connection
from tunesmith.local.embedded.locks import read_holder
from tunesmith.local.embedded.process import alive
from tunesmith.local.up import strays
from tunesmith.tuning.codes import RUN_DIRECTORY_VARIABLE
from tunesmith.tuning.values.json_objects import Json

MODEL = "tiny-llama"
SERVICES = ("api", "keeper", "worker", "valkey", "postgres")
PATIENCE_SECONDS = 240.0  # generous: a deadline is only for what never happens, and test machines are busy
FINAL = {"succeeded", "failed", "cancelled"}
SHORT_INTERVALS = {
    "TUNESMITH_LEASE_SECONDS": "12",  # longer than a restart of any part on a busy machine
    "TUNESMITH_HEARTBEAT_SECONDS": "1",
    "TUNESMITH_KEEPER_SECONDS": "0.5",
    "TUNESMITH_RETRY_SECONDS": "0.1",
    "TUNESMITH_GRACE_SECONDS": "30",
    "TUNESMITH_SLOTS": "2",  # one core and so one thread to each: the same speed on a machine with other work to do
}
_WORDS = {"api": b"serve", "keeper": b"keeper", "worker": b"run"}
_PID_FILES = {"postgres": "data/postmaster.pid", "valkey": "valkey.pid"}
_DOWN = (httpx.TransportError, openai.APIConnectionError, openai.InternalServerError)
Found = TypeVar("Found")


def eventually(look: Callable[[], Found | None], *, seconds: float, what: Callable[[], str] | str) -> Found:
    """The first true answer, or a failure that says `what` was awaited when the deadline passes."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.1)


class Machine:
    """A worker with everything below it, which can stand still as a whole, as a paused virtual machine does."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._process = process
        self._log = log

    def freeze(self) -> list[int]:
        """SIGSTOP to every process of the machine; returns their pids, parents first."""
        pids = [self._process.pid]
        pids += [child.pid for child in psutil.Process(self._process.pid).children(recursive=True)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        return pids

    def thaw(self, pids: list[int]) -> None:
        """SIGCONT to what was frozen."""
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    def said(self, text: str) -> bool:
        """Whether its log has a text."""
        return text in self._log.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL to the worker itself, frozen or not."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self._process.poll() is None:
            self._process.terminate()
        return self._process.wait(60)


class Installation:
    """Everything that one `tunesmith up` runs, in a data directory of its own."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.data_dir = data_dir
        self.output = data_dir.with_name(f"{data_dir.name}.txt")
        self._settings = SHORT_INTERVALS | settings
        self._connection: Connection | None = None
        self._client: httpx.Client | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._machines: list[Machine] = []

    def start(self, *options: str) -> None:
        """Run it, and wait until it says that it is ready."""
        command = [
            sys.executable,
            "-m",
            "tunesmith.local.up",
            "--data-dir",
            str(self.data_dir),
            "--port",
            "0",
            *options,
        ]
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                command, env=os.environ | self._settings, stdout=output, stderr=output, start_new_session=True
            )
        eventually(lambda: self._is_ready() or self._process_ended(), seconds=90, what=self.logs)
        self._connection = read_connection(self.data_dir)
        assert self._connection is not None, self.logs()

    def start_worker(self, name: str, *, work_dir: Path | None = None) -> "Machine":
        """Another worker of the installation, as on a machine of its own; ends with the installation."""
        environment = {
            **os.environ,
            **self._settings,
            strays.MARK: str(self.data_dir.resolve()),
            "TUNESMITH_URL": self.connection.base_url.removesuffix("/v1"),
            "TUNESMITH_WORKER_KEY": (self.data_dir / "keys" / "worker.key").read_text().strip(),
            "TUNESMITH_WORK_DIR": str(work_dir or self.data_dir / f"work-{name}"),
            "REDIS_URL": f"redis+socket://{self.data_dir}/valkey/socket/valkey.sock",
        }
        log = self.data_dir / "logs" / f"{name}.log"
        command = [str(Path(sys.executable).with_name("tunesmith-worker")), "run", "--name", name]
        with log.open("ab") as output:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
        self._machines.append(Machine(process, log))
        return self._machines[-1]

    def press_ctrl_c(self) -> int:
        """What a person does at the end; returns the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(90)

    def end(self) -> None:
        """Leave nothing behind, however the test went."""
        if self._client is not None:
            self._client.close()
        for machine in self._machines:
            machine.kill()
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.press_ctrl_c()
            self._process.kill()
            self._process.wait()
        strays.end(self.data_dir, grace_seconds=1)

    python = sys.executable

    @property
    def connection(self) -> Connection:
        assert self._connection is not None
        return self._connection

    def pid(self, part: str) -> int | None:
        """The process of one part. The two servers overwrite their environment, so their pid files tell."""
        if part == "trainer":
            return next(iter(self.trainers()), None)
        if part in _PID_FILES:
            with contextlib.suppress(OSError, ValueError, IndexError):
                pid = int((self.data_dir / part / _PID_FILES[part]).read_text().split()[0])
                return pid if alive(pid) else None
            return None
        return next((pid for pid in strays.find(self.data_dir) if self._is(part, pid)), None)

    def pids(self) -> list[int]:
        """Every living process of the installation, the supervisor and the servers' own children included."""
        found = set(strays.find(self.data_dir)) | {pid for part in _PID_FILES if (pid := self.pid(part))}
        with contextlib.suppress(psutil.Error):
            if self._process is not None:
                found |= {process.pid for process in psutil.Process(self._process.pid).children(recursive=True)}
        return sorted(pid for pid in found if alive(pid))

    def trainers(self) -> list[int]:
        """Processes that a worker started for a run."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(RUN_DIRECTORY_VARIABLE, "").startswith(f"{self.data_dir}/") and alive(
                    process.pid
                ):
                    found.append(process.pid)
        return sorted(found)

    def replace(self, part: str, *, seconds: float = PATIENCE_SECONDS) -> None:
        """SIGKILL to the part's main process; wait for another one and for a service that answers again."""
        killed = eventually(lambda: self.pid(part), seconds=seconds, what=lambda: f"a {part} to kill\n{self.logs()}")
        begun = time.monotonic()
        os.kill(killed, signal.SIGKILL)

        def is_back() -> bool:
            return self.pid(part) not in (None, killed) and self.answers()

        eventually(is_back, seconds=seconds, what=lambda: f"a new {part}\n{self.logs()}")
        print(f"{part} was killed and back after {time.monotonic() - begun:.1f} s")

    def answers(self) -> bool:
        """Whether a request that needs API and database works."""
        with contextlib.suppress(*_DOWN):
            return self._http().get("/v1/models").is_success
        return False

    def openai(self, *, max_retries: int = 8) -> openai.OpenAI:
        """The unmodified client."""
        return openai.OpenAI(
            base_url=self.connection.base_url, api_key=self.connection.api_key, max_retries=max_retries
        )

    def tunesmith(self, *words: str) -> str:
        """Run the command line as a user does; returns its standard output."""
        command = [sys.executable, "-m", "tunesmith.local.main", *words]
        environment = {
            **os.environ,
            "TUNESMITH_URL": self.connection.base_url,
            "TUNESMITH_API_KEY": self.connection.api_key,
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def submit(self, *, rows: int, epochs: int, seed: int = 11) -> str:
        """Create a LoRA job through the `openai` package; returns its id."""
        with self.openai() as client:
            training = client.files.create(file=("train.jsonl", chat_rows(rows)), purpose="fine-tune")
            job = client.fine_tuning.jobs.create(
                model=MODEL,
                training_file=training.id,
                seed=seed,
                hyperparameters={"n_epochs": epochs, "batch_size": 4},
                extra_body={"tunesmith": {"method": "lora", "lora": {"rank": 4, "dropout": 0.1}}},
            )
        return job.id

    def get(self, path: str) -> Json:
        """A JSON answer, asked for again while parts of the service are on their way back."""

        def ask() -> Json | None:
            with contextlib.suppress(*_DOWN):
                response = self._http().get(path)
                if response.status_code < 500:
                    return dict(response.raise_for_status().json())
            return None

        return eventually(ask, seconds=60, what=lambda: f"an answer to GET {path}\n{self.logs()}")

    def job(self, job_id: str) -> Json:
        return self.get(f"/v1/fine_tuning/jobs/{job_id}")

    def attempts(self, job_id: str) -> list[Json]:
        return list(self.get(f"/v1/fine_tuning/jobs/{job_id}/attempts")["data"])

    def steps(self, job_id: str) -> list[int]:
        """Every recorded step, in order; step 0 is the evaluation before the first."""
        points = self.get(f"/v1/fine_tuning/jobs/{job_id}/metrics")["data"]
        return [int(point["step"]) for point in points if point["step"] > 0]

    def last_step(self, job_id: str) -> int:
        return max(self.steps(job_id), default=0)

    def wait_for_step(self, job_id: str, step: int, *, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait for a recorded step at or beyond `step`."""
        self._eventually_of(job_id, lambda: self.last_step(job_id) >= step, seconds=seconds, what=f"step {step}")

    def wait_for_resumption(self, job_id: str, *, attempt: int, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until the attempt with this number has recorded a step, which must lie behind a checkpoint."""

        def first_step() -> int | None:
            query = "SELECT points FROM metric_chunks WHERE job_id = %s AND epoch = %s ORDER BY start_offset LIMIT 1"
            return next((int(points[0]["step"]) for (points,) in self.query(query, job_id, attempt)), None)

        what = f"a step of attempt {attempt}"
        self._eventually_of(job_id, lambda: first_step() is not None, seconds=seconds, what=what)
        assert (first_step() or 0) > 1, f"attempt {attempt} began at the start\n{self.logs()}"

    def wait_for_checkpoint(self, job_id: str, *, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until a checkpoint is registered."""
        path = f"/v1/fine_tuning/jobs/{job_id}/checkpoints"
        self._eventually_of(job_id, lambda: bool(self.get(path)["data"]), seconds=seconds, what="a checkpoint")

    def wait_for_end(self, job_id: str, *, seconds: float) -> Json:
        """Wait for a final status; returns the job."""
        eventually(
            lambda: self.job(job_id)["status"] in FINAL,
            seconds=seconds,
            what=lambda: f"the end of {self.job(job_id)}\n{self.logs()}",
        )
        return self.job(job_id)

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the database itself, past the service."""
        url = f"postgresql:///tunesmith?host={self._socket_folder()}&user=tunesmith"
        with psycopg.connect(url) as connection:
            return connection.execute(statement, values).fetchall()

    def logs(self) -> str:
        """The end of everything that was printed, for a failing test to show."""
        logs = [self.output, *sorted((self.data_dir / "logs").glob("*.log"))]
        return "\n".join(f"== {log.name}\n{log.read_text(errors='replace')[-2500:]}" for log in logs if log.exists())

    def _eventually_of(self, job_id: str, look: Callable[[], bool], *, seconds: float, what: str) -> None:
        def look_unless_over() -> bool:
            return look() or self.job(job_id)["status"] in FINAL

        eventually(look_unless_over, seconds=seconds, what=lambda: f"{what} of {self.job(job_id)}\n{self.logs()}")
        assert look(), f"the job ended before {what}: {self.job(job_id)}\n{self.logs()}"

    def _http(self) -> httpx.Client:
        if self._client is None:
            headers = {"authorization": f"Bearer {self.connection.api_key}"}
            base_url = self.connection.base_url.removesuffix("/v1")
            self._client = httpx.Client(base_url=base_url, headers=headers, timeout=10)
        return self._client

    def _socket_folder(self) -> Path:
        return self.data_dir / "postgres" / "socket"

    def _is(self, part: str, pid: int) -> bool:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            return _WORDS[part] in words and os.getsid(pid) == pid
        return False

    def _is_ready(self) -> bool:
        holder = read_holder(self.data_dir)
        return holder is not None and holder.pid == self._process_id() and holder.ready

    def _process_id(self) -> int:
        return self._process.pid if self._process is not None else -1

    def _process_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None


@contextlib.contextmanager
def installation(folder: Path, *options: str, **settings: str) -> Iterator[Installation]:
    """A running installation with the tiny model in it; nothing of it is left afterwards."""
    from tests.tiny_model import build_tiny_model

    running = Installation(folder / "data", **settings)
    model = build_tiny_model(folder / "tiny")
    try:
        running.start(*options)
        running.tunesmith("models", "add", MODEL, "--path", str(model))
        yield running
    finally:
        running.end()


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A short path, so that the sockets lie in the data directory as they do for a user."""
    folder = Path(f"/tmp/ts-chaos-{os.getpid()}-{time.monotonic_ns() % 10**6}")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def chat_rows(count: int) -> bytes:
    """JSONL in the API's chat form."""
    rows = (
        {
            "messages": [
                {"role": "user", "content": f"What is {number} plus one?"},
                {"role": "assistant", "content": f"It is {number + 1}, one more than {number}."},
            ]
        }
        for number in range(count)
    )
    return "\n".join(json.dumps(row) for row in rows).encode()


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
