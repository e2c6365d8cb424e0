"""The service's REST API as Python calls: one method per route, one error shape, patience with a restarting one."""

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from tunesmith.cli.connection import Connection, NotConnected, default_data_dir, find_connection
from tunesmith.tuning.api.accuracy import AccuracyList
from tunesmith.tuning.api.artifacts import ArtifactList, ArtifactObject
from tunesmith.tuning.api.base import Answer, recorded
from tunesmith.tuning.api.files import FileObject, FilePage
from tunesmith.tuning.api.history import CheckpointObject, CheckpointPage, EventObject, EventPage
from tunesmith.tuning.api.jobs import JobObject, JobPage, JobWaiting
from tunesmith.tuning.api.lists import Deleted
from tunesmith.tuning.api.metrics import MetricPoint, MetricPointList, SampleList, SampleObject
from tunesmith.tuning.api.models import ModelFetch, ModelList, ModelObject
from tunesmith.tuning.api.plans import PlanAnswer
from tunesmith.tuning.api.workers import WorkerList, WorkerObject
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import TunesmithError
from tunesmith.tuning.inference_messages import TELL_WAITING
from tunesmith.tuning.values.json_objects import Json, present

if TYPE_CHECKING:
    from tunesmith.tuning.api.comparisons.evaluations import EvaluatedRowObject, EvaluationObject
    from tunesmith.tuning.api.comparisons.reproductions import ReproductionObject

Kind = TypeVar("Kind", bound=Answer)

_RETRY_DELAYS_SECONDS = (0.2, 0.6, 1.5)
_TIMEOUT = httpx.Timeout(60, connect=5)
_UPLOAD_TIMEOUT = httpx.Timeout(600, connect=5)
_RETRIED_STATUSES = frozenset({409, 429, 502, 503, 504})  # 409: the same request is still being handled
_ANSWER_SECONDS = 600  # that an answer may take to begin: an engine may have to load the model first
_WAITING = ": waiting: "  # a comment of the event stream
_PIECE_BYTES = 1024 * 1024


class ServiceError(TunesmithError):
    """The service answered with an error. Its code, field and hint are kept; `http_status` is what it sent."""

    def __init__(self, message: str, *, http_status: int, request_id: str | None = None, **details: str | None) -> None:
        super().__init__(message, param=details.get("param"), hint=details.get("hint"))
        self.code = details.get("code") or self.code
        self.http_status = http_status
        self.request_id = request_id


class Unreachable(TunesmithError):
    """Nothing answers at the address, or it stopped answering."""

    code = ErrorCode.SERVICE_UNREACHABLE
    http_status = 503


class Client:
    """Calls of one service. A lost connection is looked up again, so the service may move to another port."""

    def __init__(
        self,
        *,
        find: Callable[[], Connection] = find_connection,
        sleep: Callable[[float], None] = time.sleep,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._find = find
        self._sleep = sleep
        self.connection = find()
        self._http = httpx.Client(timeout=_TIMEOUT, transport=transport, follow_redirects=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_reason: object) -> None:
        self._http.close()

    def upload_file(
        self,
        path: Path,
        *,
        purpose: str = "fine-tune",
        labels: Mapping[str, str] | None = None,
        wrap: Callable[[IO[bytes]], IO[bytes]] = lambda file: file,
    ) -> FileObject:
        """Send a file and return it as the service sees it. `wrap` may watch the bytes go by."""
        with path.open("rb") as file:
            return self._ask(
                FileObject,
                "POST",
                "/files",
                data={"purpose": purpose, **{f"metadata[{key}]": value for key, value in (labels or {}).items()}},
                files={"file": (path.name, wrap(file), "application/octet-stream")},
                timeout=_UPLOAD_TIMEOUT,
            )

    def list_files(self, *, purpose: str | None = None, limit: int = 1000) -> list[FileObject]:
        """Newest first."""
        return self._ask(FilePage, "GET", "/files", params=present(purpose=purpose, limit=limit)).data

    def file(self, file_id: str) -> FileObject:
        """One file with what the check of its rows found."""
        return self._ask(FileObject, "GET", f"/files/{quote(file_id, safe='')}")

    def delete_file(self, file_id: str) -> Deleted:
        """Hide a file; jobs that were made from it keep its bytes."""
        return self._ask(Deleted, "DELETE", f"/files/{quote(file_id, safe='')}")

    def create_job(self, body: Json, *, idempotency_key: str) -> JobObject:
        """Create a job once, however often the request has to be sent."""
        headers = {"Idempotency-Key": idempotency_key}
        return self._ask(JobObject, "POST", "/fine_tuning/jobs", json=body, headers=headers, is_repeatable=True)

    def plan(self, body: Json) -> PlanAnswer:
        """What each class of worker would do with a job; makes none."""
        return self._ask(PlanAnswer, "POST", "/fine_tuning/plans", json=body, is_repeatable=True)

    def plan_accuracy(self, *, limit: int = 100) -> AccuracyList:
        """Predicted beside measured for finished runs, newest first, and the current errors by kind."""
        return self._ask(AccuracyList, "GET", "/fine_tuning/plans/accuracy", params={"limit": limit})

    def list_jobs(
        self, *, limit: int = 20, after: str | None = None, labels: Mapping[str, str] | None = None
    ) -> JobPage:
        """One page, newest first, of those jobs that have all of these labels."""
        wanted = {f"metadata[{name}]": value for name, value in (labels or {}).items()}
        return self._ask(JobPage, "GET", "/fine_tuning/jobs", params=present(limit=limit, after=after, **wanted))

    def job(self, job_id: str) -> JobObject:
        """The job as it is now."""
        return self._ask(JobObject, "GET", _job_path(job_id))

    def waiting(self, job_id: str) -> JobWaiting:
        """Why a job has not started, who comes first, and when it is expected to start."""
        return self._ask(JobWaiting, "GET", f"{_job_path(job_id)}/waiting")

    def act_on_job(self, job_id: str, action: str) -> JobObject:
        """`cancel`, `pause` or `resume`; returns the job."""
        return self._ask(JobObject, "POST", f"{_job_path(job_id)}/{action}")

    def reproduce(self, job_id: str, *, idempotency_key: str) -> JobObject:
        """Create a job that repeats another one exactly, once, however often the request has to be sent."""
        headers = {"Idempotency-Key": idempotency_key}
        path = f"{_job_path(job_id)}/reproduce"
        return self._ask(JobObject, "POST", path, headers=headers, is_repeatable=True)

    def reproduction(self, job_id: str) -> "ReproductionObject":
        """Whether a job that repeats another gave the same result."""
        from tunesmith.tuning.api.comparisons.reproductions import (
            ReproductionObject,  # slow to import: it brings the planner
        )

        return self._ask(ReproductionObject, "GET", f"{_job_path(job_id)}/reproduction")

    def create_evaluation(self, body: Json) -> "EvaluationObject":
        """Measure a model on rows."""
        from tunesmith.tuning.api.comparisons.evaluations import EvaluationObject

        headers = {"Idempotency-Key": uuid.uuid4().hex}
        return self._ask(EvaluationObject, "POST", "/evaluations", json=body, headers=headers, is_repeatable=True)

    def evaluation(self, evaluation_id: str) -> "EvaluationObject":
        """The evaluation as it is now."""
        from tunesmith.tuning.api.comparisons.evaluations import EvaluationObject

        return self._ask(EvaluationObject, "GET", f"/evaluations/{quote(evaluation_id, safe='')}")

    def evaluated_rows(self, evaluation_id: str, *, order: str, limit: int) -> "list[EvaluatedRowObject]":
        """The first rows, by `line` or the `worst` first."""
        from tunesmith.tuning.api.comparisons.evaluations import EvaluatedRowPage

        path = f"/evaluations/{quote(evaluation_id, safe='')}/rows"
        return self._ask(EvaluatedRowPage, "GET", path, params={"order": order, "limit": limit}).data

    def evaluation_report(self, evaluation_id: str) -> str:
        """All of it as a page."""
        return self._send("GET", f"/evaluations/{quote(evaluation_id, safe='')}/report").text

    def events_since(self, job_id: str, *, seen: frozenset[str] = frozenset()) -> list[EventObject]:
        """The events that are not in `seen`, oldest first. Pages back from the newest until it meets a known one."""
        fresh: list[EventObject] = []
        after: str | None = None
        while True:
            page = self._ask(EventPage, "GET", f"{_job_path(job_id)}/events", params=present(limit=100, after=after))
            fresh += [event for event in page.data if event.id not in seen]
            if not page.has_more or not page.data or any(event.id in seen for event in page.data):
                return fresh[::-1]
            after = page.data[-1].id

    def metrics(self, job_id: str, *, after_step: int | None = None) -> list[MetricPoint]:
        """Metric points in the order of steps."""
        path = f"{_job_path(job_id)}/metrics"
        answer = self._ask(MetricPointList, "GET", path, params=present(after_step=after_step))
        return [recorded(MetricPoint, point) for point in answer.data]

    def samples(self, job_id: str) -> list[SampleObject]:
        """Held-out prompts with the model's answers at each evaluation."""
        return self._ask(SampleList, "GET", f"{_job_path(job_id)}/samples").data

    def artifacts(self, job_id: str) -> list[ArtifactObject]:
        """Every result of the job with its files."""
        return self._ask(ArtifactList, "GET", f"{_job_path(job_id)}/artifacts").data

    def artifact_file(self, artifact_id: str, name: str) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes of one file of a result, in pieces."""
        return self._pieces(f"/artifacts/{quote(artifact_id, safe='')}/files/{quote(name)}")

    def checkpoints(self, job_id: str) -> Iterator[CheckpointObject]:
        """The job's checkpoints, the highest step first, page by page."""
        after: str | None = None
        while True:
            path = f"{_job_path(job_id)}/checkpoints"
            page = self._ask(CheckpointPage, "GET", path, params=present(limit=100, after=after))
            yield from page.data
            if not page.has_more or not page.data:
                return
            after = page.data[-1].id

    def checkpoint_file(self, job_id: str, checkpoint_id: str, name: str) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes of one file of a checkpoint, in pieces."""
        return self._pieces(f"{_job_path(job_id)}/checkpoints/{quote(checkpoint_id, safe='')}/files/{quote(name)}")

    def model_file(self, name: str, sha256: str) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes of one file of a model, in pieces."""
        return self._pieces(f"/blobs/{sha256}?model={quote(name, safe='')}")

    @contextmanager
    def chat(self, body: Json) -> Iterator[Iterator[Json]]:
        """The chunks of a model's answer as they come; leaving the block early gives the rest up.

        While the answer waits there are chunks {"waiting": "what for"}.

        Raises:
            ServiceError: the service refuses, or the answer broke off.
        """
        url, timeout = self._url("/chat/completions"), httpx.Timeout(_ANSWER_SECONDS, connect=5)
        headers = {**self._headers(), TELL_WAITING: "yes"}
        stream = self._http.stream("POST", url, headers=headers, json={**body, "stream": True}, timeout=timeout)
        with _explained(self.connection), stream as answer:
            if answer.is_error:
                answer.read()
                raise _service_error(answer)
            yield _chunks(answer)

    def list_models(self) -> list[ModelObject]:
        """Base models and fine-tuned ones."""
        return self._ask(ModelList, "GET", "/models").data

    def model(self, name: str) -> ModelObject:
        """One model, by its name or by an alias that stands for it."""
        return self._ask(ModelObject, "GET", f"/models/{quote(name, safe='')}")

    def register_model(self, body: Json) -> ModelObject:
        """Name a set of files as a model. `tunesmith.missing` lists what the store still lacks."""
        return self._ask(ModelObject, "POST", "/models", json=body, is_repeatable=True)

    @contextmanager
    def fetch_model(self, body: Json) -> Iterator[Iterator[ModelFetch | ModelObject]]:
        """How far the service has fetched a model of the hub, at the end the model; leaving early ends the fetch.

        Raises:
            ServiceError: the service refuses, the hub does not give it, or the answer broke off.
        """
        url = self._url("/models/from_hub")
        with (
            _explained(self.connection),
            self._http.stream("POST", url, headers=self._headers(), json=body) as answer,
        ):
            if answer.is_error:
                answer.read()
                raise _service_error(answer)
            yield _fetch_lines(answer)

    def delete_model(self, name: str) -> Deleted:
        """Forget a model."""
        return self._ask(Deleted, "DELETE", f"/models/{quote(name, safe='')}")

    def put_blob(self, sha256: str, path: Path, *, wrap: Callable[[IO[bytes]], IO[bytes]] = lambda file: file) -> None:
        """Send the bytes that hash to `sha256`; twice is harmless. Starts over when the connection breaks."""

        def content() -> Iterator[bytes]:
            with path.open("rb") as file:
                watched = wrap(file)
                while piece := watched.read(_PIECE_BYTES):
                    yield piece

        headers = {"Content-Length": str(path.stat().st_size), "Content-Type": "application/octet-stream"}
        self._send("PUT", f"/blobs/{sha256}", content=content, headers=headers, timeout=_UPLOAD_TIMEOUT)

    def workers(self) -> list[WorkerObject]:
        """Live workers with their hardware."""
        return self._ask(WorkerList, "GET", "/workers").data

    def is_ready(self) -> bool:
        """Whether the service and its database and queue answer."""
        root = self.connection.base_url.removesuffix("/v1")
        try:
            return self._http.get(f"{root}/readyz").is_success
        except httpx.TransportError:
            return False

    def ask(self, kind: type[Kind], method: str, path: str, **request: Any) -> Kind:
        """Any route of which there is no method here. POST is sent once unless `is_repeatable`."""
        return self._ask(kind, method, path, **request)

    def _ask(self, kind: type[Kind], method: str, path: str, **request: Any) -> Kind:
        return _read(kind, self._send(method, path, **request))

    def _send(
        self,
        method: str,
        path: str,
        *,
        is_repeatable: bool | None = None,
        content: Callable[[], Iterator[bytes]] | None = None,
        headers: Mapping[str, str] | None = None,
        **request: Any,
    ) -> httpx.Response:
        """Send until it is answered or patience ends. What may have been carried out is repeated only if harmless."""
        is_repeatable = method in ("GET", "PUT", "DELETE") if is_repeatable is None else is_repeatable
        for delay_seconds in (*_RETRY_DELAYS_SECONDS, None):
            try:
                body: Json = {} if content is None else {"content": content()}
                with _explained(self.connection):
                    answer = self._http.request(
                        method, self._url(path), headers=self._headers(headers), **request, **body
                    )
                if delay_seconds is None or not is_repeatable or not _may_pass(answer):
                    return _checked(answer)
            except Unreachable as error:
                if delay_seconds is None or not (is_repeatable or _never_arrived(error)):
                    raise
            self._sleep(delay_seconds)
            self._look_again()
        raise AssertionError("the last round returns or raises")

    def _look_again(self) -> None:
        try:
            self.connection = self._find()
        except NotConnected:
            return  # it may be about to come back: the old address is as good as any

    @contextmanager
    def _pieces(self, path: str) -> Iterator[Iterator[bytes]]:
        stream = self._http.stream("GET", self._url(path), headers=self._headers(), follow_redirects=True)
        with _explained(self.connection), stream as answer:
            if answer.is_error:
                answer.read()
                raise _service_error(answer)
            yield answer.iter_bytes(_PIECE_BYTES)

    def _url(self, path: str) -> str:
        return self.connection.base_url.rstrip("/") + path

    def _headers(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.connection.api_key}", **(more or {})}


def _read(kind: type[Kind], answer: httpx.Response) -> Kind:
    """The answer; what a newer service has added to it is no error."""
    try:
        return kind.model_validate_json(answer.content, extra="allow")
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            what = "something that is not JSON"
        else:
            what = (
                f"something that this version does not understand: {'.'.join(map(str, first['loc']))}: {first['msg']}"
            )
        raise ServiceError(
            f"{answer.url} answered {answer.status_code} with {what}.",
            http_status=500,
            hint="is this address really a Tunesmith service, and of this version? see `tunesmith doctor`",
        ) from error


@contextmanager
def _explained(connection: Connection) -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as error:
        raise _unreachable(connection, error) from error


def _unreachable(connection: Connection, error: httpx.TransportError) -> Unreachable:
    if connection.data_dir is not None and isinstance(error, httpx.ConnectError):
        option = "" if connection.data_dir == default_data_dir() else f" --data-dir {connection.data_dir}"
        return Unreachable(
            f"The service in {connection.data_dir} is gone: nothing answers at {connection.base_url}.",
            hint=f"start it again with `tunesmith up{option}`: jobs, files and models are still there",
        )
    return Unreachable(
        f"No answer from {connection.base_url}: {error or type(error).__name__}.",
        hint="is it running? start it with `tunesmith up`, or look at `tunesmith doctor`",
    )


def _chunks(answer: httpx.Response) -> Iterator[Json]:
    for line in answer.iter_lines():
        if line == "data: [DONE]":
            return
        if line.startswith(_WAITING):
            yield {"waiting": line.removeprefix(_WAITING)}
        if line.startswith("data: "):
            chunk: Json = json.loads(line[6:])
            if error := chunk.get("error"):
                details = {name: error.get(name) for name in ("code", "param", "hint")}
                raise ServiceError(str(error.get("message")), http_status=503, **details)
            yield chunk
    raise ServiceError("The answer broke off.", http_status=503, hint="ask again")


def _fetch_lines(answer: httpx.Response) -> Iterator[ModelFetch | ModelObject]:
    for text in answer.iter_lines():
        line: Json = json.loads(text)
        if error := line.get("error"):
            details = {name: error.get(name) for name in ("code", "param", "hint")}
            raise ServiceError(str(error.get("message")), http_status=503, **details)
        if line.get("object") == "model":
            yield recorded(ModelObject, line)
            return
        yield recorded(ModelFetch, line)
    raise ServiceError("The answer broke off.", http_status=503, hint="ask again: what has come is kept for a day")


def _may_pass(answer: httpx.Response) -> bool:
    return answer.status_code in _RETRIED_STATUSES and answer.headers.get("x-should-retry") != "false"


def _never_arrived(error: Unreachable) -> bool:
    return isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout)


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_error:
        raise _service_error(answer)
    return answer


def _service_error(answer: httpx.Response) -> ServiceError:
    try:
        body = answer.json()["error"]
        message = str(body["message"])
    except (ValueError, KeyError, TypeError):
        body, message = {}, f"The service answered {answer.status_code} {answer.reason_phrase} without saying why."
    return ServiceError(
        message,
        http_status=answer.status_code,
        request_id=answer.headers.get("x-request-id"),
        code=body.get("code"),
        param=body.get("param"),
        hint=body.get("hint") or _HINTS.get(answer.status_code),
    )


_HINTS = {
    401: "the key is missing, wrong or revoked; `tunesmith env` shows the one that `tunesmith up` made",
    403: "this key's role does not allow it; an admin key does",
}


def _job_path(job_id: str) -> str:
    return f"/fine_tuning/jobs/{quote(job_id, safe='')}"
