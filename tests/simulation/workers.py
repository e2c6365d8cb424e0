"""Workers as the service sees them: they register, beat, claim and report, fall silent, and start again."""

import random
from dataclasses import dataclass

import httpx2

from tests.control_plane import sha256
from tests.machines import CPU
from tests.simulation.stage import HEARTBEAT_SECONDS, Request
from tests.simulation.world import World
from tunesmith.tuning.codes import ArtifactKind
from tunesmith.tuning.errors import Category, Failure
from tunesmith.tuning.messages import (
    ArtifactReport,
    AttemptHeartbeat,
    CheckpointReport,
    Claim,
    ClaimRequest,
    FileRef,
    FinishReport,
    HeartbeatReply,
    MetricChunk,
    RegisterWorker,
    WorkerHeartbeat,
)
from tunesmith.tuning.state import Outcome, Phase
from tunesmith.tuning.values.base import Value

SLOTS = 2
_STEPS_BETWEEN_CHECKPOINTS = 2
_BYTES_OF_A_POINT = 100
_FLAKY = Failure(code="flaky", message="The disk hiccuped.", category=Category.TRANSIENT, retryable=True)
_KILLED = Failure(code="trainer_killed", message="SIGKILL", category=Category.WORKER_LOST, retryable=True)
_HOPELESS = Failure(code="invalid_row", message="Row 7 is empty.", category=Category.USER_ERROR)
_ENDINGS: tuple[tuple[Outcome, Failure | None], ...] = (
    (Outcome.SUCCEEDED, None),
    (Outcome.PREEMPTED, None),
    (Outcome.FAILED, _FLAKY),
    (Outcome.FAILED, _KILLED),
    (Outcome.FAILED, _HOPELESS),
)


@dataclass
class Ending:
    """How a run will end by itself, and after which step."""

    outcome: Outcome
    failure: Failure | None
    after_step: int

    @classmethod
    def draw(cls, random: random.Random, *, first: int, total: int, is_calm: bool) -> "Ending":
        weights = (1, 0, 0, 0, 0) if is_calm else (60, 12, 16, 8, 4)
        outcome, failure = random.choices(_ENDINGS, weights=weights)[0]
        return cls(outcome, failure, total if outcome is Outcome.SUCCEEDED else random.randint(first, total))


class Run:
    """An attempt in the hands of a worker: sends one message after another, each until it is answered."""

    def __init__(self, world: World, claim: Claim) -> None:
        self.is_over = False
        self._world = world
        self._claim = claim
        self._first = self._step = self._sent = self._saved = claim.resume[0].step if claim.resume else 0
        self._total = claim.plan.total_steps
        self._ending = Ending.draw(world.random, first=self._step, total=self._total, is_calm=world.is_calm)
        self._result: FileRef | None = None
        self._has_result = False
        self._beat_at = world.elapsed_seconds

    async def act(self) -> None:
        """A beat that is due may come after other messages: a worker sends them beside one another."""
        is_due = self._world.elapsed_seconds - self._beat_at >= HEARTBEAT_SECONDS
        if is_due and self._world.random.random() < 0.5:
            await self._beat()
        elif self._step - self._saved >= _STEPS_BETWEEN_CHECKPOINTS:
            await self._save()
        elif self._step < self._ending.after_step:
            await self._train()
        elif self._ending.outcome is Outcome.SUCCEEDED and not self._has_result:
            await self._hand_over()
        else:
            await self._finish()

    async def _beat(self) -> None:
        answer = await self._post("heartbeat", AttemptHeartbeat(phase=Phase.TRAINING, step=self._step))
        if answer is None:
            return
        self._beat_at = self._world.elapsed_seconds
        reply = HeartbeatReply.model_validate_json(answer.content)
        if reply.cancel or reply.pause:
            outcome = Outcome.CANCELLED if reply.cancel else Outcome.PAUSED
            self._ending = Ending(outcome, None, after_step=self._step)

    async def _train(self) -> None:
        """The points of one step or of two: a chunk whose answer was lost may be sent longer the next time."""
        most = min(self._step + 2, self._ending.after_step)
        last = max(self._world.random.randint(self._step + 1, most), self._sent)
        self._sent = last
        points = tuple({"step": step, "train_loss": 3.0 - step / 10} for step in range(self._step + 1, last + 1))
        chunk = MetricChunk(start_offset=self._offset(self._step), end_offset=self._offset(last), points=points)
        if await self._post("metrics", chunk):
            self._step = last

    def _offset(self, step: int) -> int:
        return (step - self._first) * _BYTES_OF_A_POINT

    async def _save(self) -> None:
        manifest = await self._put("manifest.json", f"{self._claim.attempt_id} at step {self._step}")
        if manifest is None:
            return
        report = CheckpointReport(step=self._step, manifest_sha256=manifest.sha256, files=(manifest,))
        if await self._post("checkpoints", report):
            self._saved = self._step

    async def _hand_over(self) -> None:
        weights = await self._put("adapter_model.safetensors", f"weights of {self._claim.attempt_id}")
        if weights is not None:
            report = ArtifactReport(kind=ArtifactKind.ADAPTER, files=(weights,))
            self._has_result = await self._post("artifacts", report) is not None

    async def _finish(self) -> None:
        report = FinishReport(outcome=self._ending.outcome, failure=self._ending.failure, trained_tokens=1)
        if await self._post("finish", report):
            self.is_over = True

    async def _put(self, name: str, text: str) -> FileRef | None:
        file = FileRef(name=name, sha256=sha256(text.encode()), bytes=len(text))
        return file if await self._send("PUT", f"blobs/{file.sha256}", text) else None

    async def _post(self, name: str, body: Value) -> httpx2.Response | None:
        return await self._send("POST", name, body.model_dump_json())

    async def _send(self, method: str, name: str, content: str) -> httpx2.Response | None:
        """A good answer, or None. Whoever is told that the job is no longer his stops at once."""
        path = f"/internal/attempts/{self._claim.attempt_id}/{name}"
        answer = await self._world.send(Request(method, path, key=self._claim.lease_token, content=content))
        if answer is None:
            return None
        if answer.status_code in {401, 409}:
            self.is_over = True
            return None
        assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"
        return answer


class Worker:
    """A process that claims. When it is killed it forgets everything, and starts again as another incarnation."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.silent_until_seconds = 0.0
        self.is_woken = False
        self._world = world
        self._starts = 0
        self._claims = 0
        self._claim_id: str | None = None
        self._is_registered = False
        self._beat_at = 0.0
        self._runs: list[Run] = []

    @property
    def has_something_to_do(self) -> bool:
        if self.silent_until_seconds > self._world.elapsed_seconds:
            return False
        is_quiet = self._is_registered and not (self._runs or self.is_woken or self._claim_id)
        return not is_quiet or self._is_due_to_beat

    @property
    def _is_due_to_beat(self) -> bool:
        return self._world.elapsed_seconds - self._beat_at >= HEARTBEAT_SECONDS

    def die(self) -> None:
        """What it has sent may still arrive."""
        self._starts += 1
        self._runs = []
        self._is_registered = self.is_woken = False
        self._claim_id = None

    async def act(self) -> None:
        """Whatever is next: its start, a beat, a claim, or a message about one of its runs."""
        self._runs = [run for run in self._runs if not run.is_over]
        if not self._is_registered:
            await self._register()
        elif self._is_due_to_beat:
            await self._beat()
        elif self._claim_id is not None or (self.is_woken and len(self._runs) < SLOTS):
            await self._claim()
        elif self._runs:
            await self._world.random.choice(self._runs).act()

    async def _register(self) -> None:
        request = RegisterWorker(
            worker_id=self.name,
            incarnation=self.incarnation,
            hostname="h",
            version="0",
            hardware=CPU,
            slots=SLOTS,
        )
        if await self._post("/internal/workers", request):
            self._is_registered = self.is_woken = True  # one that starts asks before it listens

    async def _beat(self) -> None:
        report = WorkerHeartbeat(incarnation=self.incarnation, hardware=CPU, busy_slots=len(self._runs))
        if await self._post(f"/internal/workers/{self.name}/heartbeat", report):
            self._beat_at = self._world.elapsed_seconds

    async def _claim(self) -> None:
        """Asked under the same id until an answer comes."""
        if self._claim_id is None:
            self._claims += 1
            self._claim_id = f"{self.name}-{self._claims}"
        request = ClaimRequest(worker_id=self.name, incarnation=self.incarnation, hardware=CPU, claim_id=self._claim_id)
        answer = await self._post("/internal/claims", request)
        if answer is None:
            return
        self._claim_id = None
        if answer.content:
            self._runs.append(Run(self._world, Claim.model_validate_json(answer.content)))
        else:
            self.is_woken = False

    @property
    def incarnation(self) -> str:
        return f"{self.name}-{self._starts}"

    async def _post(self, path: str, body: Value) -> httpx2.Response | None:
        """A good answer, or None: also when whoever asked is dead by now, or must register again."""
        asked_as = self.incarnation
        answer = await self._world.send(Request("POST", path, key="worker", content=body.model_dump_json()))
        if answer is None or self.incarnation != asked_as:
            return None
        if answer.status_code == 404:
            self._is_registered = False
            return None
        assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"
        return answer
