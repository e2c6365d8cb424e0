"""What people do: they create jobs until they are told that one exists, and cancel, pause and resume them."""

import json
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.stage import Request
from tests.simulation.world import World

_JOBS = "/v1/fine_tuning/jobs"


@dataclass
class Promises:
    """What the service has answered: these jobs exist, and these will be cancelled."""

    accepted: set[str] = field(default_factory=set)
    by_key: dict[str, set[str]] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)


class Users:
    def __init__(self, world: World, *, training_file: str) -> None:
        self.promises = Promises()
        self._world = world
        self._body = {
            "model": "tiny-llama",
            "training_file": training_file,
            "hyperparameters": {"n_epochs": 1, "batch_size": 4},
        }
        self.wanted = 0
        self._unanswered: list[str] = []

    @property
    def wait_for_an_answer(self) -> bool:
        return bool(self._unanswered)

    def want(self) -> None:
        self.wanted += 1
        self._unanswered.append(f"key-{self.wanted}")

    def create(self) -> Coroutine[Any, Any, None]:
        """Ask for a job that nobody has confirmed yet."""
        return self._create(self._world.random.choice(self._unanswered))

    async def change_their_mind(self) -> None:
        if self.promises.accepted:
            verb = self._world.random.choice(("cancel", "pause", "resume", "resume"))
            await self._ask(self._world.random.choice(sorted(self.promises.accepted)), verb)

    async def resume(self, job_id: str) -> None:
        await self._ask(job_id, "resume")

    async def _create(self, key: str) -> None:
        """Asked under the same key until an answer comes, and sometimes once more."""
        body = {**self._body, "seed": int(key.removeprefix("key-"))}
        request = Request("POST", _JOBS, "member", content=json.dumps(body), headers=(("idempotency-key", key),))
        answer = await self._world.send(request)
        if answer is None:
            return
        assert answer.status_code == 200, answer.text
        job_id = answer.json()["id"]
        self.promises.accepted.add(job_id)
        self.promises.by_key.setdefault(key, set()).add(job_id)
        if key in self._unanswered and self._world.random.random() < 0.9:
            self._unanswered.remove(key)

    async def _ask(self, job_id: str, verb: str) -> None:
        answer = await self._world.send(Request("POST", f"{_JOBS}/{job_id}/{verb}", "member"))
        if answer is None:
            return
        assert answer.status_code in {200, 400}, answer.text
        if verb == "cancel" and answer.status_code == 200:
            self.promises.cancelled.add(job_id)
