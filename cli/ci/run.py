"""One run of a pipeline: submit the job or attach to it, wait for its end whatever restarts meanwhile, and judge it."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tunesmith.cli.ci.ending import Champion, Ending, result_point
from tunesmith.cli.ci.gate import judge
from tunesmith.cli.ci.job_file import Loaded
from tunesmith.cli.ci.pipeline import LABEL
from tunesmith.cli.client import Client, ServiceError, Unreachable
from tunesmith.cli.exit_codes import ExitCode, for_error, for_job
from tunesmith.cli.follow import View, follow
from tunesmith.cli.models.fetch import create_job
from tunesmith.cli.models.hashing import sha256_of
from tunesmith.tuning.api.jobs import JobObject
from tunesmith.tuning.api.metrics import MetricPoint
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidTrainingFile, TunesmithError
from tunesmith.tuning.state import JobState
from tunesmith.tuning.values.json_objects import Json

T = TypeVar("T")

_PAUSE_SECONDS = 2.0
_SHARE_OF_WAIT, _LONGEST_NAP_SECONDS = 0.05, 10.0
_ENDED_BADLY = (JobState.FAILED, JobState.CANCELLED)
_LISTED_FILES = 1000


@dataclass(frozen=True)
class Terms:
    """How a run behaves. `patience_seconds` is how long the service may be away at a time."""

    key: str
    is_new: bool
    timeout_seconds: float | None
    patience_seconds: float
    cancels_on_interrupt: bool


class Run:
    """One run; clock and sleep are parameters."""

    def __init__(
        self,
        client: Client,
        loaded: Loaded,
        terms: Terms,
        *,
        view: View,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._client, self._loaded, self._terms = client, loaded, terms
        self._view, self._clock, self._sleep = view, clock, sleep
        self._started_at = clock()

    def submit_or_attach(self) -> JobObject:
        """The job of this key that has not ended badly, or a new one. Two runs at once get one job."""
        return self._patiently(self._find_or_create)

    def wait(self, job: JobObject) -> Ending:
        """Follow the job to its end. Ctrl-C leaves it running, unless the terms say otherwise."""
        try:
            return self._followed(job)
        except KeyboardInterrupt:
            return self._interrupted(job)
        except TunesmithError as error:
            return Ending(
                for_error(error), f"{job.id} was lost sight of. {error.message}", job=job, hints=_ways_on(job)
            )

    def _followed(self, job: JobObject) -> Ending:
        followed = self._patiently(lambda: self._follow(job.id))
        if not followed.is_finished:
            headline = f"{job.id} has not ended in time; it goes on."
            return Ending(ExitCode.TIMED_OUT, headline, job=followed.job, hints=_ways_on(job))
        return self._patiently(lambda: self._judge(followed.job))

    def _find_or_create(self) -> JobObject:
        earlier = self._earlier()
        if (living := _living(earlier)) and not self._terms.is_new:
            self._view.line(f"attached to {living.id}, which this pipeline made before ({living.status})")
            return living
        number = uuid.uuid4().hex if self._terms.is_new else str(len(earlier))
        try:
            return create_job(self._client, self._body(), idempotency_key=f"ci-{self._terms.key}-{number}")
        except ServiceError as error:
            # Another run of the same key was quicker, and had uploaded the same rows as another file.
            again = _living(self._earlier()) if error.code == ErrorCode.IDEMPOTENCY_KEY_REUSED else None
            if again is None:
                raise
            return again

    def _earlier(self) -> list[JobObject]:
        return self._client.list_jobs(limit=100, labels={LABEL: self._terms.key}).data

    def _body(self) -> Json:
        body = self._loaded.body
        labels = {**(body.get("metadata") or {}), LABEL: self._terms.key}
        return {
            **body,
            **{field: self._file_id(source) for field, source in self._loaded.files.items()},
            "metadata": labels,
        }

    def _file_id(self, source: Path | str) -> str:
        """The id of the file in the service; one with the same bytes that is there is not sent again."""
        if isinstance(source, str):
            return source
        sha256 = sha256_of(source)
        for known in self._client.list_files(purpose="fine-tune", limit=_LISTED_FILES):
            if known.tunesmith.sha256 == sha256 and known.status == "processed":
                return known.id
        file = self._client.upload_file(source)
        if file.status == "error":
            raise InvalidTrainingFile(f"{source} cannot be trained on: {file.status_details}", param="training_file")
        return file.id

    def _follow(self, job_id: str) -> "Followed":
        timeout = self._terms.timeout_seconds
        left = None if timeout is None else max(0.0, timeout - (self._clock() - self._started_at))
        followed = follow(
            self._client,
            job_id,
            view=self._view,
            timeout_seconds=left,
            patience_seconds=self._terms.patience_seconds,
            clock=self._clock,
            sleep=self._nap,
        )
        return Followed(followed.job, followed.is_finished)

    def _nap(self, seconds: float) -> None:
        """Longer the longer it takes: nobody watches, and a job of hours need not be asked about every second."""
        waited = self._clock() - self._started_at
        self._sleep(max(seconds, min(waited * _SHARE_OF_WAIT, _LONGEST_NAP_SECONDS)))

    def _judge(self, job: JobObject) -> Ending:
        points = self._client.metrics(job.id)
        samples = self._client.samples(job.id)
        if job.status != JobState.SUCCEEDED:
            hints = [job.tunesmith.failure.hint] if job.tunesmith.failure and job.tunesmith.failure.hint else []
            headline = f"{job.id} {job.status}" + (f": {job.error.code}: {job.error.message}" if job.error else ".")
            return Ending(for_job(job.status), headline, job=job, points=points, samples=samples, hints=hints)
        result = result_point(job, points)
        checks = list(judge(self._loaded.job.gate, result))
        refused = [check.sentence for check in checks if not check.passed]
        champion = self._champion(job, result)
        return Ending(
            ExitCode.GATE if refused else ExitCode.SUCCEEDED,
            f"The gate refuses {job.fine_tuned_model}. {' '.join(refused)}"
            if refused
            else f"{job.id} succeeded: {job.fine_tuned_model}",
            job=job,
            points=points,
            samples=samples,
            checks=checks,
            champion=champion,
            missing_champion=None if champion else self._loaded.job.champion,
        )

    def _champion(self, job: JobObject, result: MetricPoint | None) -> Champion | None:
        """The loss of the named model's own job; None where there is no such model, or nothing was measured."""
        name = self._loaded.job.champion
        if name is None or result is None:
            return None
        try:
            job_id = self._client.model(name).tunesmith.job_id
            other = self._client.job(job_id) if job_id else None
        except ServiceError as error:
            if error.http_status != 404:
                raise
            other = None
        loss = (other.tunesmith.result or {}).get("final_valid_loss") if other else None
        if other is None or not isinstance(loss, float | int):
            self._view.line(f"nothing is known of the champion {name!r} to compare with")
            return None
        is_same = other.validation_file is not None and other.validation_file == job.validation_file
        return Champion(name, float(loss), is_same)

    def _interrupted(self, job: JobObject) -> Ending:
        hints = [*_ways_on(job), f"cancel it: tunesmith cancel {job.id}"]
        if not self._terms.cancels_on_interrupt:
            return Ending(ExitCode.INTERRUPTED, f"Interrupted; {job.id} goes on.", job=job, hints=hints)
        try:
            self._client.act_on_job(job.id, "cancel")
        except TunesmithError as error:
            headline = f"Interrupted; {job.id} could not be cancelled. {error.message}"
            return Ending(ExitCode.INTERRUPTED, headline, job=job, hints=hints)
        return Ending(ExitCode.INTERRUPTED, f"Interrupted; {job.id} was cancelled.", job=job)

    def _patiently(self, call: Callable[[], T]) -> T:
        """Call again while the service is away, for as long as the terms say."""
        deadline = self._clock() + self._terms.patience_seconds
        is_lost = False
        while True:
            try:
                answer = call()
            except (Unreachable, ServiceError) as error:
                if not _may_pass(error) or self._clock() >= deadline:
                    raise
                if not is_lost:
                    self._view.lost(error.message)
                is_lost = True
                self._sleep(_PAUSE_SECONDS)
            else:
                if is_lost:
                    self._view.found()
                return answer


@dataclass(frozen=True)
class Followed:
    """The job as it was last seen."""

    job: JobObject
    is_finished: bool


def _living(jobs: list[JobObject]) -> JobObject | None:
    """The newest that has not ended badly."""
    return next((job for job in jobs if job.status not in _ENDED_BADLY), None)


def _ways_on(job: JobObject) -> list[str]:
    return [f"attach with the same command, or: tunesmith watch {job.id}"]


def _may_pass(error: TunesmithError) -> bool:
    return isinstance(error, Unreachable) or error.http_status == 429 or error.http_status >= 500
