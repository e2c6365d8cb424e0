"""The wire of inference: what its workers tell the service, and what the service asks of their gateways.

A worker authenticates with its worker key; the service authenticates at the gateway with the secret that the worker
announced, which is another for each start of it.

    POST /internal/inference-workers                          RegisterInferenceWorker -> InferenceWorkerRegistered
    POST /internal/inference-workers/{id}/heartbeat           InferenceHeartbeat      -> 204
    GET  /internal/inference-workers/{id}/blobs/{sha256}      -> raw bytes (Range works); only files of models
    POST {gateway}/generate                                   Generation              -> see below

A gateway answers 200 at once, with lines of JSON: `Waiting` now and then, at the latest every few seconds, so that
silence means that it is gone; then one `Answering`; then the bytes of the answer. What it sends to break a silence
within an answer is white space, or a comment of the event stream.
"""

from typing import Any, Literal

from pydantic import Field

from tunesmith.tuning.messages import FileRef, set_digest
from tunesmith.tuning.values.base import Value

TELL_WAITING = "x-tunesmith-tell-waiting"  # a client's header: its stream begins with comments while it waits
LONGEST_SILENCE_SECONDS = 2.0  # of a gateway that lives

Doing = Literal["ready", "serving", "training", "draining"]
GenerationPath = Literal["chat/completions", "completions"]


class RegisterInferenceWorker(Value):
    """Sent once when an inference worker starts."""

    worker_id: str
    incarnation: str
    hostname: str
    version: str
    worker_class: str
    engine: str
    url: str
    secret: str
    memory_bytes: int = Field(ge=0)  # that models may take there


class InferenceWorkerRegistered(Value):
    """How often to beat."""

    heartbeat_interval_seconds: float


class InferenceHeartbeat(Value):
    """Sent while the process lives, and at once when what it does changes."""

    incarnation: str
    doing: Doing
    bases: tuple[str, ...] = ()  # digests of the bases in memory
    names: tuple[str, ...] | None = None  # all that an engine elsewhere serves; None: whatever is fetched
    requests: int = Field(default=0, ge=0)


class ModelFiles(Value):
    """A set of files in the object store that are a model or an adapter."""

    name: str
    files: tuple[FileRef, ...]

    @property
    def digest(self) -> str:
        """Of the whole set, see `set_digest`."""
        return set_digest(self.files)


class ServedModel(Value):
    """What answers: a whole model, or a base with an adapter on it."""

    name: str  # as the client asked for it
    base: ModelFiles
    adapter: ModelFiles | None = None


class Generation(Value):
    """One request of a client, with the files of what it asks."""

    model: ServedModel
    path: GenerationPath
    body: dict[str, Any]


class Waiting(Value):
    """The answer has not begun, and why."""

    waiting: str


class Answering(Value):
    """The answer begins: `status` and `content_type` are the client's."""

    status: int
    content_type: str = "application/json"
    retry_after_seconds: float | None = None
    waited_for: str | None = None
