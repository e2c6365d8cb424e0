"""People who use a service without a pause and take no answer but the right one."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import httpx2

from tests.stack.installation import FINAL
from tests.waiting import eventually
from tunesmith.tuning.values.json_objects import Json

_JOBS = "/v1/fine_tuning/jobs"
_PAUSE_SECONDS = 0.02
_WAIT_SECONDS = 1


class SteadyUsers:
    """One creates jobs and looks at them, one waits for them and reads lists, while it is entered.

    Nothing is asked for a second time: `faults` are the requests that were not answered with 200, `answers` counts
    those that were by address.
    """

    def __init__(self, urls: Sequence[str], *, key: str, body: Json, open_jobs: int) -> None:
        self.faults: list[str] = []
        self.answers: Counter[str] = Counter()
        self.accepted: dict[str, str] = {}  # by idempotency key
        self.is_content = False  # creates no more jobs
        self._urls = tuple(urls)
        self._headers = {"authorization": f"Bearer {key}"}
        self._body = body
        self._open_jobs = open_jobs
        self._open: set[str] = set()
        self._asked: dict[Callable[..., None], tuple[str, ...]] = {}  # by whom, the addresses of the last round
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(2)
        self._living: list[Future[None]] = []

    def __enter__(self) -> Self:
        self._living = [self._pool.submit(self._live, self._create_and_look), self._pool.submit(self._live, self._read)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._pool.shutdown()
        if error is None:
            for living in self._living:
                living.result()

    def turn_to(self, *urls: str) -> None:
        """Ask there from now on; afterwards no request to another address is under way."""
        self._urls = urls
        eventually(lambda: len(self._asked) == 2 and set(self._asked.values()) == {urls}, what="a round of each")

    def ask_more(self, requests: int) -> None:
        """Wait until so many more were answered, and another job has ended."""
        answered, ended = self.answers.total(), self.ended

        def enough() -> bool:
            assert self.faults == []
            return self.answers.total() >= answered + requests and self.ended > ended

        eventually(enough, what=lambda: f"{requests} answers to {self.answers}, and an end of {self._open}")

    @property
    def ended(self) -> int:
        """Jobs that were seen to have."""
        return len(self.accepted) - len(self._open)

    def _live(self, act: Callable[[httpx2.Client, random.Random, tuple[str, ...]], None]) -> None:
        chance = random.Random(1)
        with httpx2.Client(headers=self._headers, timeout=30, verify=False) as client:
            while not self._stop.wait(_PAUSE_SECONDS):
                urls = self._urls
                act(client, chance, urls)
                self._asked[act] = urls

    def _create_and_look(self, client: httpx2.Client, chance: random.Random, urls: tuple[str, ...]) -> None:
        if not self.is_content and len(self._open) < self._open_jobs:
            key = f"steady-{len(self.accepted)}"
            for _ in range(2):  # whichever version hears it the second time knows it
                job = self._ask(client, chance.choice(urls), _JOBS, json=self._body, headers={"Idempotency-Key": key})
                if job and self.accepted.setdefault(key, str(job["id"])) != job["id"]:
                    self.faults.append(f"{key} made {self.accepted[key]} and {job['id']}")
            if key in self.accepted:
                self._open.add(self.accepted[key])
        for job_id in sorted(self._open):
            job = self._ask(client, chance.choice(urls), f"{_JOBS}/{job_id}")
            if job and job["status"] in FINAL:
                self._open.discard(job_id)

    def _read(self, client: httpx2.Client, chance: random.Random, urls: tuple[str, ...]) -> None:
        self._ask(client, chance.choice(urls), f"{_JOBS}?limit=20")
        self._ask(client, chance.choice(urls), "/v1/models")
        for job_id in sorted(self.accepted.values())[-1:]:
            for path in ("/events", "/metrics", "/checkpoints", f"?wait={_WAIT_SECONDS}"):
                self._ask(client, chance.choice(urls), f"{_JOBS}/{job_id}{path}")

    def _ask(self, client: httpx2.Client, url: str, path: str, **options: Any) -> Json | None:
        try:
            response = client.request("POST" if "json" in options else "GET", url + path, **options)
        except httpx2.TransportError as error:
            self.faults.append(f"{url}{path}: {error!r}")
            return None
        if response.status_code != 200:
            self.faults.append(f"{url}{path}: {response.status_code} {response.text[:300]}")
            return None
        self.answers[url] += 1
        return dict(response.json())
