"""Users who keep a cluster busy: they ask for jobs until they are told of one, look at them and cancel some."""

import contextlib
import random
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import httpx2

from tests.simulation.users import Promises
from tests.stack.installation import FINAL
from tunesmith.tuning.values.json_objects import Json

_JOBS = "/v1/fine_tuning/jobs"
_PAUSE_SECONDS = 0.1
_CANCELS = 0.1  # of the jobs
_TIMEOUT_SECONDS = 5.0
_LATER = {429, 500, 503}  # asked again


class Crowd:
    """A thread that keeps `open_jobs` jobs unfinished while it is entered; `promises` are what it was answered."""

    def __init__(self, urls: Sequence[str], *, key: str, body: Json, seed: int, open_jobs: int) -> None:
        self.promises = Promises()
        self.is_content = False  # asks for no more jobs
        self.unanswered: list[str] = []
        self._clients = [_client(url, key) for url in urls]
        self._body = body
        self._random = random.Random(seed)
        self._open_jobs = open_jobs
        self._open: set[str] = set()
        self._regretted: set[str] = set()  # to be cancelled at one of the next looks
        self._wanted = 0
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._living: Future[None] | None = None

    def __enter__(self) -> Self:
        self._living = self._pool.submit(self._live)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._pool.shutdown()
        for client in self._clients:
            client.close()
        if self._living is not None and error is None:
            self._living.result()

    @property
    def is_at_rest(self) -> bool:
        """Whether everything that was asked for was answered and has ended. Raises what went wrong in the thread."""
        if self._living is not None and self._living.done():
            self._living.result()
        return self.is_content and not self.unanswered and not self._open

    @property
    def waits_for(self) -> str:
        return f"answers to {self.unanswered}, the ends of {sorted(self._open)}"

    def _live(self) -> None:
        while not self._stop.wait(_PAUSE_SECONDS):
            if not self.is_content and len(self._open) + len(self.unanswered) < self._open_jobs:
                self._wanted += 1
                self.unanswered.append(f"{self._body['training_file']}-{self._wanted}")  # no other crowd's
            if self.unanswered:
                self._create(self._random.choice(self.unanswered))
            if self._open:
                self._look(self._random.choice(sorted(self._open)))

    def _create(self, key: str) -> None:
        """Under one key until an answer comes, and sometimes once more."""
        answer = self._ask("POST", _JOBS, json=self._body, headers={"Idempotency-Key": key})
        if answer is None:
            return
        job_id = str(answer["id"])
        self.promises.accepted.add(job_id)
        self.promises.by_key.setdefault(key, set()).add(job_id)
        self._open.add(job_id)
        if self._random.random() < _CANCELS:
            self._regretted.add(job_id)
        if self._random.random() < 0.9:
            self.unanswered.remove(key)

    def _look(self, job_id: str) -> None:
        if job_id in self._regretted and self._random.random() < 0.1 and self._cancel(job_id):
            self._regretted.discard(job_id)
            self.promises.cancelled.add(job_id)
        job = self._ask("GET", f"{_JOBS}/{job_id}")
        if job is not None and job["status"] in FINAL:
            self._open.discard(job_id)

    def _cancel(self, job_id: str) -> bool:
        """Whether it was accepted; 400 is said of a job that has ended."""
        return self._ask("POST", f"{_JOBS}/{job_id}/cancel", refusals=(400,)) is not None

    def _ask(self, method: str, path: str, *, refusals: Sequence[int] = (), **options: Any) -> Json | None:
        """The answer of any API, or None where there was none, or one that says to come again."""
        with contextlib.suppress(httpx2.TransportError):
            response = self._random.choice(self._clients).request(method, path, **options)
            if response.status_code in _LATER or response.status_code in refusals:
                return None
            assert response.status_code == 200, f"{method} {path}: {response.status_code} {response.text}"
            return dict(response.json())
        return None


def _client(url: str, key: str) -> httpx2.Client:
    headers = {"authorization": f"Bearer {key}"}
    return httpx2.Client(base_url=url, headers=headers, timeout=_TIMEOUT_SECONDS, verify=False)
