"""What a test does with a running service, however its parts were started."""

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import psycopg

from tests.waiting import PATIENCE_SECONDS, eventually
from tunesmith.tuning.values.json_objects import Json

MODEL = "tiny-llama"
FINAL = {"succeeded", "failed", "cancelled"}
_DOWN = (httpx2.TransportError, openai.APIConnectionError, openai.InternalServerError)


class Installation(ABC):
    """A service with the tiny model in it, asked as its users ask it."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Of the API, without /v1."""

    @property
    @abstractmethod
    def user_key(self) -> str:
        """Of whoever submits jobs."""

    @property
    @abstractmethod
    def database_url(self) -> str:
        """To look past the service."""

    @abstractmethod
    def logs(self) -> str:
        """The end of everything that was printed, for a failing test to show."""

    def openai(self, *, max_retries: int = 8) -> openai.OpenAI:
        """The unmodified client."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.user_key, max_retries=max_retries)

    @contextlib.contextmanager
    def http(self, key: str | None = None) -> Iterator[httpx2.Client]:
        """Plain requests, as the user unless another `key` is given."""
        headers = {"authorization": f"Bearer {key or self.user_key}"}
        with httpx2.Client(base_url=self.url, headers=headers, timeout=30) as client:
            yield client

    def answers(self) -> bool:
        """Whether a request that needs API and database works."""
        with contextlib.suppress(*_DOWN), self.http() as client:
            return client.get("/v1/models").is_success
        return False

    def get(self, path: str) -> Json:
        """A JSON answer, asked for again while parts of the service are on their way back."""

        def ask() -> Json | None:
            with contextlib.suppress(*_DOWN), self.http() as client:
                response = client.get(path)
                if response.status_code < 500:
                    return dict(response.raise_for_status().json())
            return None

        return eventually(ask, seconds=60, what=lambda: f"an answer to GET {path}\n{self.logs()}")

    def submit(
        self,
        *,
        rows: int = 40,
        held_out_rows: int = 4,
        epochs: int = 1,
        seed: int = 1,
        answer_end: str = "",
        **tunesmith: Any,
    ) -> str:
        """Create a LoRA job through the `openai` client, with a validation file unless `held_out_rows` is 0.

        Returns its id.
        """
        with self.openai() as client:
            files = {"training_file": rows, "validation_file": held_out_rows}
            sent: dict[str, Any] = {
                name: client.files.create(
                    file=(f"{name}.jsonl", chat_rows(count, answer_end=answer_end)), purpose="fine-tune"
                ).id
                for name, count in files.items()
                if count
            }
            job = client.fine_tuning.jobs.create(
                model=MODEL,
                **sent,
                seed=seed,
                hyperparameters={"n_epochs": epochs, "batch_size": 4},
                extra_body={"tunesmith": {"method": "lora", "lora": {"rank": 4}, **tunesmith}},
            )
        return job.id

    def cancel_everything(self) -> None:
        """Leave no job behind that a later test's worker would take."""
        with self.openai() as client:
            for job in client.fine_tuning.jobs.list(limit=100):
                if job.status not in FINAL:
                    client.fine_tuning.jobs.cancel(job.id)

    def job(self, job_id: str) -> Json:
        return self.get(f"/v1/fine_tuning/jobs/{job_id}")

    def attempts(self, job_id: str) -> list[Json]:
        return list(self.get(f"/v1/fine_tuning/jobs/{job_id}/attempts")["data"])

    def metrics(self, job_id: str) -> list[Json]:
        """The recorded points; step 0 is the evaluation before the first step."""
        return list(self.get(f"/v1/fine_tuning/jobs/{job_id}/metrics")["data"])

    def steps(self, job_id: str) -> list[int]:
        """Every recorded step from 1, in order."""
        return [int(point["step"]) for point in self.metrics(job_id) if point["step"] > 0]

    def last_step(self, job_id: str) -> int:
        return max(self.steps(job_id), default=0)

    def messages(self, job_id: str) -> list[str]:
        """The job's history, newest first."""
        with self.openai() as client:
            return [event.message for event in client.fine_tuning.jobs.list_events(job_id, limit=100)]

    def first_steps(self, job_id: str) -> dict[int, int]:
        """By the number of an attempt, the first step that it recorded."""
        query = (
            "SELECT DISTINCT ON (epoch) epoch, points FROM metric_chunks WHERE job_id = %s ORDER BY epoch, start_offset"
        )
        return {int(epoch): int(points[0]["step"]) for epoch, points in self.query(query, job_id)}

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the database itself, past the service."""
        with psycopg.connect(self.database_url) as connection:
            return connection.execute(statement, values).fetchall()

    def wait_for_status(self, job_id: str, *statuses: str, seconds: float = PATIENCE_SECONDS) -> Json:
        """Wait for one of them; another final status fails at once. Returns the job."""

        def look() -> Json | None:
            job = self.job(job_id)
            assert job["status"] in statuses or job["status"] not in FINAL, f"{job}\n{self.logs()}"
            return job if job["status"] in statuses else None

        return eventually(look, seconds=seconds, what=lambda: f"{statuses} of {self.job(job_id)}\n{self.logs()}")

    def wait_for_end(self, job_id: str, *, seconds: float = PATIENCE_SECONDS) -> Json:
        """Wait for any final status; returns the job."""
        return self.wait_for_status(job_id, *FINAL, seconds=seconds)

    def wait_for_step(self, job_id: str, step: int) -> None:
        """Wait for a recorded step at or beyond `step`."""
        self._wait_while_it_runs(job_id, lambda: self.last_step(job_id) >= step, what=f"step {step}")

    def wait_for_checkpoint(self, job_id: str) -> None:
        """Wait until a checkpoint is registered."""
        path = f"/v1/fine_tuning/jobs/{job_id}/checkpoints"
        self._wait_while_it_runs(job_id, lambda: bool(self.get(path)["data"]), what="a checkpoint")

    def wait_for_resumption(self, job_id: str, *, attempt: int) -> None:
        """Wait until the attempt with this number has recorded a step, which must lie behind a checkpoint."""
        self._wait_while_it_runs(job_id, lambda: attempt in self.first_steps(job_id), what=f"a step of {attempt}")
        assert self.first_steps(job_id)[attempt] > 1, f"attempt {attempt} began at the start\n{self.logs()}"

    def _wait_while_it_runs(self, job_id: str, look: Callable[[], bool], *, what: str) -> None:
        def look_unless_over() -> bool:
            return look() or self.job(job_id)["status"] in FINAL

        eventually(look_unless_over, what=lambda: f"{what} of {self.job(job_id)}\n{self.logs()}")
        assert look(), f"the job ended before {what}: {self.job(job_id)}\n{self.logs()}"


def chat_rows(count: int, *, answer_end: str = "") -> bytes:
    """JSONL in the API's chat form: sums, whose answers may go on with words that make every row longer."""
    rows = (
        {
            "messages": [
                {"role": "user", "content": f"What is {number} plus one?"},
                {"role": "assistant", "content": f"It is {number + 1}{answer_end}."},
            ]
        }
        for number in range(count)
    )
    return "\n".join(json.dumps(row) for row in rows).encode()
