"""The service as the worker sees it: two protocols, and their implementation over the `/internal` routes."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import httpx2

from tunesmith.tuning.messages import (
    ArtifactReport,
    AttemptHeartbeat,
    CanaryReport,
    CheckpointReport,
    Claim,
    ClaimRequest,
    EventReport,
    FileRef,
    FinishReport,
    GreetingAnswer,
    HeartbeatReply,
    MetricChunk,
    PhaseReport,
    RegisterWorker,
    Wakes,
    WorkerHeartbeat,
    WorkerRegistered,
)
from tunesmith.tuning.values.base import Value
from tunesmith.worker.transport.blobs import download, upload
from tunesmith.worker.transport.greeting import greet, require_not_older
from tunesmith.worker.transport.retry import Patience, never_stop
from tunesmith.worker.transport.wire import read_answer, send, service_client

TIMEOUT = httpx2.Timeout(10.0, connect=5.0)
BLOB_TIMEOUT = httpx2.Timeout(60.0, connect=5.0)
_ONCE = Patience(seconds=0)
_CLAIM = Patience(seconds=30)  # half a lease: what the service gave away unheard is still ours


class AttemptControl(Protocol):
    """What one attempt says to the service. Every call may raise LeaseLost, and Unavailable when patience ends."""

    def patiently(self, check: Callable[[], None]) -> "AttemptControl":
        """The same attempt with calls that outlast an outage, and that `check` can stop by raising."""

    def heartbeat(self, beat: AttemptHeartbeat) -> HeartbeatReply:
        """Extend the lease."""

    def phase(self, report: PhaseReport) -> None:
        """Say that a phase was reached."""

    def event(self, report: EventReport) -> None:
        """Add a line to the job's history."""

    def canary(self, report: CanaryReport) -> None:
        """Tell what one micro-step before training measured; replays are harmless."""

    def metrics(self, chunk: MetricChunk) -> None:
        """Hand over metric points; replays are harmless."""

    def download(self, file: FileRef, target: Path) -> None:
        """Fetch a blob to `target`, which exists only when its bytes have the right hash."""

    def upload(self, file: FileRef, source: Path) -> None:
        """Send a file that hashes to `file.sha256`."""

    def checkpoint(self, report: CheckpointReport) -> None:
        """Register a checkpoint whose files have been sent."""

    def artifact(self, report: ArtifactReport) -> None:
        """Register a result whose files have been sent."""

    def finish(self, report: FinishReport) -> None:
        """The attempt's last word."""

    def close(self) -> None:
        """Close the connections; also those of its patient views."""


class ControlPlane(Protocol):
    """What the worker itself says to the service."""

    def greet(self, patience: Patience) -> GreetingAnswer:
        """The first word: whether address and key are right; waits while the service is away or older."""

    def next_wakes(self, worker_class: str, *, seen: int | None, wait_seconds: float) -> Wakes:
        """Wake-ups beyond those that were seen, as soon as there are any, or none when the time is over."""

    def register(self, request: RegisterWorker, patience: Patience) -> WorkerRegistered:
        """Introduce this start of the worker; waits while the service is away."""

    def worker_heartbeat(self, worker_id: str, beat: WorkerHeartbeat) -> None:
        """Say that the worker lives, once, without waiting."""

    def claim(self, request: ClaimRequest) -> Claim | None:
        """Ask for a job, again under the same claim id if no answer comes; None when nothing fits this hardware."""

    def attempt(self, claim: Claim) -> AttemptControl:
        """The view of one attempt, with its lease token."""

    def close(self) -> None:
        """Close the connections; not those of attempts."""


class HttpControlPlane:
    """`ControlPlane` over HTTP. Safe to use from several threads."""

    def __init__(self, *, url: str, worker_key: str, outage_patience_seconds: float) -> None:
        self._url = url
        self._outage_patience_seconds = outage_patience_seconds
        self._client = service_client(url, worker_key, timeout=TIMEOUT)

    def greet(self, patience: Patience) -> GreetingAnswer:
        """See `ControlPlane`."""
        return patience.call(lambda: require_not_older(greet(self._client)))

    def next_wakes(self, worker_class: str, *, seen: int | None, wait_seconds: float) -> Wakes:
        """See `ControlPlane`."""
        asked = {"worker_class": worker_class, "wait": wait_seconds} | ({} if seen is None else {"seen": seen})
        timeout = httpx2.Timeout(wait_seconds + 10.0, connect=5.0)
        response = send(self._client, "GET", "/internal/wakes", params=asked, timeout=timeout)
        return read_answer(Wakes, response.content)

    def register(self, request: RegisterWorker, patience: Patience) -> WorkerRegistered:
        """See `ControlPlane`."""
        response = patience.call(lambda: send(self._client, "POST", "/internal/workers", **json_content(request)))
        return read_answer(WorkerRegistered, response.content)

    def worker_heartbeat(self, worker_id: str, beat: WorkerHeartbeat) -> None:
        """See `ControlPlane`."""
        send(self._client, "POST", f"/internal/workers/{worker_id}/heartbeat", **json_content(beat))

    def claim(self, request: ClaimRequest) -> Claim | None:
        """See `ControlPlane`. Without an id it is asked once: a second claim might be given a second job."""
        patience = _ONCE if request.claim_id is None else _CLAIM
        response = patience.call(lambda: send(self._client, "POST", "/internal/claims", **json_content(request)))
        return read_answer(Claim, response.content) if response.content else None

    def attempt(self, claim: Claim) -> AttemptControl:
        """See `ControlPlane`."""
        return HttpAttemptControl(
            client=service_client(self._url, claim.lease_token, timeout=TIMEOUT),
            blob_client=service_client(self._url, claim.lease_token, timeout=BLOB_TIMEOUT),
            attempt_id=claim.attempt_id,
            outage_patience_seconds=self._outage_patience_seconds,
        )

    def close(self) -> None:
        """See `ControlPlane`."""
        self._client.close()


class HttpAttemptControl:
    """`AttemptControl` over HTTP: each call is made once, or until it works on a `patiently` view."""

    def __init__(
        self,
        *,
        client: httpx2.Client,
        blob_client: httpx2.Client,
        attempt_id: str,
        outage_patience_seconds: float,
        patience: Patience = _ONCE,
    ) -> None:
        self._client = client
        self._blob_client = blob_client
        self._attempt_id = attempt_id
        self._outage_patience_seconds = outage_patience_seconds
        self._patience = patience

    def patiently(self, check: Callable[[], None] = never_stop) -> "HttpAttemptControl":
        """See `AttemptControl`."""
        return HttpAttemptControl(
            client=self._client,
            blob_client=self._blob_client,
            attempt_id=self._attempt_id,
            outage_patience_seconds=self._outage_patience_seconds,
            patience=Patience(seconds=self._outage_patience_seconds, check=check),
        )

    def heartbeat(self, beat: AttemptHeartbeat) -> HeartbeatReply:
        """See `AttemptControl`."""
        return read_answer(HeartbeatReply, self._post("heartbeat", beat).content)

    def phase(self, report: PhaseReport) -> None:
        """See `AttemptControl`."""
        self._post("phase", report)

    def event(self, report: EventReport) -> None:
        """See `AttemptControl`."""
        self._post("events", report)

    def canary(self, report: CanaryReport) -> None:
        """See `AttemptControl`."""
        self._post("canary", report)

    def metrics(self, chunk: MetricChunk) -> None:
        """See `AttemptControl`."""
        self._post("metrics", chunk)

    def checkpoint(self, report: CheckpointReport) -> None:
        """See `AttemptControl`."""
        self._post("checkpoints", report)

    def artifact(self, report: ArtifactReport) -> None:
        """See `AttemptControl`."""
        self._post("artifacts", report)

    def finish(self, report: FinishReport) -> None:
        """See `AttemptControl`."""
        self._post("finish", report)

    def close(self) -> None:
        """See `AttemptControl`."""
        self._client.close()
        self._blob_client.close()

    def download(self, file: FileRef, target: Path) -> None:
        """See `AttemptControl`."""
        path = self._path(f"blobs/{file.sha256}")
        self._patience.call(lambda: download(self._blob_client, path, file, target, check=self._patience.check))

    def upload(self, file: FileRef, source: Path) -> None:
        """See `AttemptControl`."""
        path = self._path(f"blobs/{file.sha256}")
        self._patience.call(lambda: upload(self._blob_client, path, file, source, check=self._patience.check))

    def _post(self, name: str, body: Value) -> httpx2.Response:
        return self._patience.call(lambda: send(self._client, "POST", self._path(name), **json_content(body)))

    def _path(self, rest: str) -> str:
        return f"/internal/attempts/{self._attempt_id}/{rest}"


def json_content(body: Value) -> dict[str, object]:
    """The body of a request, as options of a client."""
    return {"content": body.model_dump_json(), "headers": {"content-type": "application/json"}}
