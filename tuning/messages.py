"""The wire between the service and its workers: every body of every `/internal` route, and the wake-up task.

All of these but the package and blobs are JSON. A worker authenticates with its worker key to greet, to register, to
beat and to claim; after a claim, every call about the attempt carries the attempt's lease token as the bearer and is
fenced by the epoch inside it: when another attempt owns the job the service answers 409 `lease_lost`, and the worker
kills its tree and writes no more.

    GET  /internal/package/{name}                 -> the service's own wheel, or constraints.txt; with a join token
    POST /internal/join                           JoinRequest        -> JoinAnswer; with a join token
    POST /internal/greetings                      Greeting           -> GreetingAnswer
    POST /internal/workers                        RegisterWorker     -> WorkerRegistered
    POST /internal/workers/{id}/heartbeat         WorkerHeartbeat    -> 204
    GET  /internal/wakes?worker_class=&seen=&wait=                   -> Wakes, when there are any or the wait is over
    POST /internal/claims                         ClaimRequest       -> Claim, or 204 when nothing here fits
    POST /internal/attempts/{id}/heartbeat        AttemptHeartbeat   -> HeartbeatReply
    POST /internal/attempts/{id}/phase            PhaseReport        -> 204
    POST /internal/attempts/{id}/events           EventReport        -> 204
    POST /internal/attempts/{id}/canary           CanaryReport       -> 204 (replays are harmless)
    POST /internal/attempts/{id}/metrics          MetricChunk        -> 204 (replays are harmless)
    PUT  /internal/attempts/{id}/blobs/{sha256}   raw bytes          -> 204 (verified against the name)
    GET  /internal/attempts/{id}/blobs/{sha256}   -> raw bytes (Range works); only blobs this job may read
    POST /internal/attempts/{id}/checkpoints      CheckpointReport   -> 204
    POST /internal/attempts/{id}/artifacts        ArtifactReport     -> 204
    POST /internal/attempts/{id}/finish           FinishReport       -> 204
"""

from typing import Any, Literal

from pydantic import Field

from tunesmith.tuning.corrections import Corrections
from tunesmith.tuning.errors import Failure
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.models.hub import HubCommit
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Plan
from tunesmith.tuning.state import Outcome, Phase
from tunesmith.tuning.values.base import Value
from tunesmith.tuning.values.hashes import sha256_of_text
from tunesmith.tuning.words import Method

WAKE_TASK = "tunesmith.wake"


def wake_queue(worker_class: str) -> str:
    """The Celery queue that workers of this class listen on."""
    return f"wake.{worker_class}"


class Wake(Value):
    """The whole payload of the Celery message: there may be work for hardware of this class."""

    worker_class: str


class Wakes(Value):
    """How many wake-ups there were for a worker class, and how many of them are for whoever asked."""

    seen: int
    """To ask with the next time."""
    wakes: int
    """How many slots should claim."""


class JoinRequest(Value):
    """Sent once by a machine that was invited, with the join token. It made its key itself and keeps it.

    The same request again is answered as the first time: an answer that was lost costs nothing.
    """

    name: str = Field(min_length=1, max_length=100)
    version: str = Field(max_length=60)
    key_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    key_hint: str = Field(min_length=4, max_length=4)


class JoinAnswer(Value):
    """The machine's key is a worker's from now on. An invitation may have given the worker another name."""

    name: str
    key_id: str
    version: str


class Greeting(Value):
    """The first word of a worker, before it looks at its machine: a wrong key or address shows here."""

    version: str


class GreetingAnswer(Value):
    """What a worker checks about the service. `at` is the service's clock in seconds since the epoch."""

    service: Literal["tunesmith"] = "tunesmith"
    version: str
    at: float


class FileRef(Value):
    """One file in the object store, named inside a model, checkpoint or artifact."""

    name: str
    """Its path inside the set, with forward slashes."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of its bytes in hexadecimal: their name in the object store."""
    bytes: int = Field(ge=0)
    """Its length."""


def set_digest(files: tuple[FileRef, ...]) -> str:
    """One SHA-256 for a set of files, whatever their order: of their names, sizes and hashes."""
    lines = sorted(f"{file.sha256} {file.bytes} {file.name}\n" for file in files)
    return sha256_of_text("".join(lines))


LEASE_PREFIX = "lease-"  # of the token of a lease, which tells people and scanners what it is


class RegisterWorker(Value):
    """Sent once when the worker process starts. A new incarnation of a worker ends its earlier attempts at once."""

    worker_id: str
    incarnation: str
    hostname: str
    version: str
    hardware: HardwareProfile
    slots: int = 1


class WorkerRegistered(Value):
    """What a worker needs to know to behave: intervals are the service's to choose."""

    worker_class: str
    heartbeat_interval_seconds: float
    lease_seconds: float


class WorkerHeartbeat(Value):
    """Sent while the worker process lives, busy or not."""

    incarnation: str
    hardware: HardwareProfile
    busy_slots: int
    draining: bool = False


class ClaimRequest(Value):
    """Ask for the best waiting job that fits this hardware as it is right now.

    Asking again under the same `claim_id` gives the attempt of the first time, while it is open: an answer that was
    lost costs nothing. A `lease_token` that comes with it is that of the lease, so that it is all the same which copy
    of the claim is handled last; without one the service makes one for each answer, and the last alone is valid.
    """

    worker_id: str
    incarnation: str
    hardware: HardwareProfile
    claim_id: str | None = Field(default=None, max_length=128)
    last_base: str | None = Field(default=None, max_length=64)
    """Set digest of the base that the asking process used last: it has read and verified its files."""
    lease_token: str | None = Field(default=None, pattern=rf"^{LEASE_PREFIX}[A-Za-z0-9_-]{{43}}$", repr=False)


class BaseModelRef(Value):
    """The weights to start from, as files in the object store. A worker keeps each set under its `set_digest`."""

    name: str
    files: tuple[FileRef, ...]
    adapter_of: str | None = None  # set when `files` is an adapter; then `base_files` holds the model under it
    base_files: tuple[FileRef, ...] = ()
    measured_shape: ModelShape | None = None  # of a family that the planner has no formulas for
    hub: HubCommit | None = None  # where the model comes from, or the one under the adapter, when it is known

    @property
    def base_digest(self) -> str:
        """Of the files that a run loads as its base: of an adapter those of the model under it."""
        return set_digest(self.base_files if self.adapter_of is not None else self.files)


class CheckpointRef(Value):
    """A registered checkpoint, complete in the object store. `manifest_sha256` is the hash of its manifest.json."""

    step: int
    manifest_sha256: str
    files: tuple[FileRef, ...]


class Claim(Value):
    """One attempt, handed to one worker. `resume` is newest first; the first that verifies is used.

    `corrections` is what `plan` was predicted with, so that the worker's own last look decides by the same numbers.
    `is_plan_pinned` says that there is nothing to decide: the job repeats another one's plan.
    `project` says which jobs may share what one of them leaves on the worker.
    """

    job_id: str
    project: str = ""
    attempt_id: str
    epoch: int  # the attempt's number within its job; a write with an older one is refused
    lease_token: str
    lease_seconds: float
    heartbeat_interval_seconds: float
    spec: JobSpec
    plan: Plan
    is_plan_pinned: bool = False
    corrections: dict[Method, Corrections] = {}
    dataset: DatasetFacts
    base_model: BaseModelRef
    against: BaseModelRef | None = None  # of an evaluation: whom it compares `base_model` with
    training_file: FileRef
    validation_file: FileRef | None = None
    resume: tuple[CheckpointRef, ...] = ()


class AttemptHeartbeat(Value):
    """Extends the lease. Progress travels with it so that a poll sees it even when metrics are behind."""

    phase: Phase
    step: int | None = None
    total_steps: int | None = None
    eta_seconds: float | None = None


class HeartbeatReply(Value):
    """Marks set by the user ride back on the heartbeat."""

    cancel: bool = False
    pause: bool = False


class PhaseReport(Value):
    """The attempt reached a phase. `plan` is set when the worker's last look at free memory changed it."""

    phase: Phase
    plan: Plan | None = None


class EventReport(Value):
    """One line of the job's history."""

    level: Literal["info", "warn", "error"] = "info"
    message: str
    data: dict[str, Any] | None = None


class CanaryReport(Value):
    """One real micro-step, forward and backward, before the first optimizer step."""

    tokens: int = Field(gt=0)
    """Tokens in the micro-step."""
    longest_row_tokens: int = Field(gt=0)
    """Tokens of its longest row."""
    tokens_per_micro_step: int = Field(gt=0)
    """The token budget that was left to it: fewer than the plan's when memory ran out."""
    seconds: float = Field(gt=0)
    """How long it took, forward and backward."""
    tokens_per_second: float = Field(gt=0)
    """Its speed."""
    predicted_tokens_per_second: float | None = None
    """What the plan predicted; null where it made no prediction."""
    speed_ratio: float | None = None
    """Measured over predicted speed; null without a prediction."""
    peak_memory_bytes: int = Field(gt=0)
    """The peak, counting the optimizer's state as if it existed already."""
    predicted_peak_bytes: int | None = None
    """What the plan predicted; null where it made no prediction."""
    memory_ratio: float | None = None
    """Measured over predicted peak; null without a prediction."""
    expected_seconds: float | None = None
    """The whole run with its evaluations at the measured speed."""
    others_share: float | None = None
    """The share of the machine that others used meanwhile, from 0 to 1."""


class MetricChunk(Value):
    """Metric points of metrics.jsonl between two byte offsets. (attempt, start) names it: replays are harmless."""

    start_offset: int = Field(ge=0)
    end_offset: int = Field(gt=0)
    points: tuple[dict[str, float | int | None], ...]


class CheckpointReport(Value):
    """A complete checkpoint whose files are all in the store."""

    step: int
    manifest_sha256: str
    files: tuple[FileRef, ...]
    metrics: dict[str, float] = {}


class ArtifactReport(Value):
    """A set of files in the store that an attempt leaves."""

    kind: str  # an `ArtifactKind`, or one that only a worker of another version knows
    files: tuple[FileRef, ...]
    metadata: dict[str, Any] = {}


class FinishReport(Value):
    """The last word of an attempt; one fenced transaction."""

    outcome: Outcome
    failure: Failure | None = None
    trained_tokens: int | None = None
    result: dict[str, Any] = {}
