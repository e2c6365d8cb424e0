"""The rows. Every rule that a CHECK or an index can hold is held by the database, beside the column it is about."""

from datetime import datetime

from sqlalchemy import CheckConstraint, FetchedValue, ForeignKey, Identity, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from tunesmith.service.database.nightly_tables import Alias, AliasChange, Firing, Schedule
from tunesmith.service.database.row import Row, holding, one_of
from tunesmith.tuning.codes import RESULT_KINDS
from tunesmith.tuning.state import FINAL_STATES, JobState, Outcome
from tunesmith.tuning.values.json_objects import Json
from tunesmith.tuning.words import JobKind, KeyRole

__all__ = [
    "Alias",
    "AliasChange",
    "ApiBeat",
    "ApiKey",
    "Artifact",
    "Attempt",
    "Blob",
    "Checkpoint",
    "Event",
    "File",
    "Firing",
    "IdempotencyKey",
    "Job",
    "MetricChunk",
    "Model",
    "OutboxMessage",
    "Row",
    "Schedule",
    "WorkerNode",
]

MEASURED = "(outcome = 'succeeded' AND result IS NOT NULL) OR canary IS NOT NULL"  # of an attempt
_STATES = [state.value for state in JobState]
_FINAL = sorted(state.value for state in FINAL_STATES)


class ApiKey(Row):
    """A caller. Only the hash of the key is kept; `hint` is its last four characters, for people."""

    __tablename__ = "api_keys"
    __table_args__ = (CheckConstraint(one_of("role", [role.value for role in KeyRole]), name="role"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    role: Mapped[str]
    project: Mapped[str]
    key_sha256: Mapped[str] = mapped_column(unique=True)
    hint: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_used_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    lineage: Mapped[str | None]  # the first key of those that rotations replaced by one another; null: this one


class Blob(Row):
    """Bytes under their own hash. Only those that are stored may be counted on; nobody deletes any before `kept_until`.

    A row without stored bytes is an upload that was announced, or bytes that are being deleted.
    """

    __tablename__ = "blobs"
    __table_args__ = (CheckConstraint("bytes >= 0", name="bytes"), Index("ix_blobs_kept_until", "kept_until"))

    sha256: Mapped[str] = mapped_column(primary_key=True)
    bytes: Mapped[int]
    is_stored: Mapped[bool] = mapped_column(server_default=text("true"))
    kept_until: Mapped[datetime] = mapped_column(server_default=text("now() + interval '1 day'"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class File(Row):
    """A file of a project. `report` is what the check at upload counted, whether the file is good or not.

    Without `blob_sha256` it was deleted or has expired, and its bytes are gone.
    """

    __tablename__ = "files"
    __table_args__ = (
        CheckConstraint(one_of("status", ["uploaded", "processed", "error"]), name="status"),
        CheckConstraint("(status = 'error') <= (status_details IS NOT NULL)", name="error_explained"),
        CheckConstraint(
            "blob_sha256 IS NOT NULL OR deleted_at IS NOT NULL OR expires_at IS NOT NULL", name="living_has_bytes"
        ),
        Index("ix_files_project_id", "project", "id"),
        Index("ix_files_blob_sha256", "blob_sha256"),
        Index("ix_files_filename", "project", "filename"),
        Index("ix_files_labels", "labels", postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"}),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str]
    purpose: Mapped[str]
    filename: Mapped[str]
    bytes: Mapped[int]
    blob_sha256: Mapped[str | None] = mapped_column(ForeignKey("blobs.sha256"))
    status: Mapped[str]
    status_details: Mapped[str | None]
    report: Mapped[Json | None]
    labels: Mapped[Json | None]  # the upload's `metadata`
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]


class Upload(Row):
    """A large file that comes in parts. It expires by time alone, which no row says."""

    __tablename__ = "uploads"
    __table_args__ = (
        CheckConstraint(one_of("status", ["pending", "completed", "cancelled"]), name="status"),
        CheckConstraint("(file_id IS NOT NULL) = (status = 'completed')", name="file_iff_completed"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str]
    bytes: Mapped[int]
    filename: Mapped[str]
    purpose: Mapped[str]
    mime_type: Mapped[str]
    status: Mapped[str]
    keep_file_seconds: Mapped[int | None]
    file_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]


class UploadPart(Row):
    """Some of an upload's bytes, as long as it is pending."""

    __tablename__ = "upload_parts"
    __table_args__ = (
        Index("ix_upload_parts_upload_id", "upload_id"),
        Index("ix_upload_parts_blob_sha256", "blob_sha256"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"))
    blob_sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"))
    bytes: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Model(Row):
    """A base model, shared by all projects, or a fine-tuned one of a single project."""

    __tablename__ = "models"
    __table_args__ = (
        CheckConstraint(one_of("status", ["incomplete", "ready"]), name="status"),
        CheckConstraint(one_of("kind", ["base", *(kind.value for kind in RESULT_KINDS)]), name="kind"),
        CheckConstraint("(kind = 'base') = (project IS NULL)", name="shared_iff_base"),
        CheckConstraint("(kind = 'base') = (base_model IS NULL)", name="base_iff_base"),
        holding("models"),
    )

    name: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    project: Mapped[str | None]
    status: Mapped[str]
    digest: Mapped[str]
    config: Mapped[Json]
    files: Mapped[list[Json]]
    hub: Mapped[Json | None]
    base_model: Mapped[str | None] = mapped_column(ForeignKey("models.name"))
    job_id: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Job(Row):
    """What a user asked for, and how far it is. `epoch` counts attempts and fences them; `version` counts changes."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(one_of("state", _STATES), name="state"),
        CheckConstraint(f"(finished_at IS NOT NULL) = ({one_of('state', _FINAL)})", name="finished_iff_final"),
        CheckConstraint("attempts_used BETWEEN 0 AND max_attempts", name="attempts_bounded"),
        CheckConstraint("(failure IS NOT NULL) = (state = 'failed')", name="failure_iff_failed"),
        CheckConstraint(one_of("kind", [kind.value for kind in JobKind]), name="kind"),
        CheckConstraint(
            "(fine_tuned_model IS NOT NULL) = (state = 'succeeded' AND kind = 'training')", name="model_iff_succeeded"
        ),
        CheckConstraint("epoch >= 0 AND event_seq >= 0", name="counters"),
        CheckConstraint("(reproduces IS NULL) = (pinned_plan IS NULL)", name="pinned_iff_reproduces"),
        CheckConstraint("attempts_lost >= 0 AND attempts_preempted >= 0", name="endings"),
        Index("ix_jobs_project_id", "project", "id"),
        Index("ix_jobs_line", "project", "line_at", "id", postgresql_where=text("state = 'queued'")),
        Index("ix_jobs_evaluations", "project", "id", postgresql_where=text("kind = 'evaluation'")),
        Index("ix_jobs_state", "state"),
        Index("ix_jobs_running", "project", postgresql_where=text("state = 'running'")),
        Index("ix_jobs_deadline", "deadline_at", postgresql_where=text("finished_at IS NULL")),
        Index("ix_jobs_retry", "api_key_id", "request_sha256", "created_at"),
        Index("ix_jobs_labels", "labels", postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"}),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str]
    kind: Mapped[str] = mapped_column(server_default=text("'training'"))
    api_key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    request_sha256: Mapped[str]
    state: Mapped[str]
    version: Mapped[int] = mapped_column(server_default=text("1"), server_onupdate=FetchedValue())
    epoch: Mapped[int] = mapped_column(server_default=text("0"))
    event_seq: Mapped[int] = mapped_column(server_default=text("0"))

    spec: Mapped[Json]
    dataset: Mapped[Json]
    training_file: Mapped[str] = mapped_column(ForeignKey("files.id"))
    validation_file: Mapped[str | None] = mapped_column(ForeignKey("files.id"))
    suffix: Mapped[str | None]
    labels: Mapped[Json | None]  # the API's `metadata`, a name that SQLAlchemy keeps for itself
    priority: Mapped[int] = mapped_column(server_default=text("0"))
    reproduces: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))  # the job whose plan is repeated
    pinned_plan: Mapped[Json | None]
    question_sha256: Mapped[str | None]  # the same for jobs that the planner cannot tell apart

    attempts_used: Mapped[int] = mapped_column(server_default=text("0"))  # those that failed, and an open one
    max_attempts: Mapped[int]
    attempts_lost: Mapped[int] = mapped_column(server_default=text("0"))
    attempts_preempted: Mapped[int] = mapped_column(server_default=text("0"))
    not_before: Mapped[datetime] = mapped_column(server_default=func.now())
    waiting_reason: Mapped[str | None]
    deadline_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    pause_requested_at: Mapped[datetime | None]

    plan: Mapped[Json | None]
    phase: Mapped[str | None]
    step: Mapped[int | None]
    total_steps: Mapped[int | None]
    eta_seconds: Mapped[float | None]
    estimated_finish_at: Mapped[datetime | None]
    metric_event_step: Mapped[int] = mapped_column(server_default=text("-1"))  # the last step that became an event

    trained_tokens: Mapped[int | None]
    result: Mapped[Json | None]
    fine_tuned_model: Mapped[str | None]
    result_files: Mapped[list[str]] = mapped_column(server_default=text("'[]'"))
    failure: Mapped[Json | None]

    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    queued_at: Mapped[datetime | None]
    line_at: Mapped[datetime | None] = mapped_column(server_default=FetchedValue(), server_onupdate=FetchedValue())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Attempt(Row):
    """One try of a job by one worker under one lease. The partial index makes two open ones impossible to record."""

    __tablename__ = "attempts"
    __table_args__ = (
        CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name="outcome_iff_ended"),
        CheckConstraint(one_of("outcome", [outcome.value for outcome in Outcome]), name="outcome"),
        UniqueConstraint("job_id", "epoch"),
        Index("ix_attempts_one_open", "job_id", unique=True, postgresql_where=text("ended_at IS NULL")),
        Index("ix_attempts_open_lease", "lease_expires_at", postgresql_where=text("ended_at IS NULL")),
        Index("ix_attempts_open_worker", "worker_id", postgresql_where=text("ended_at IS NULL")),
        Index("ix_attempts_claim", "worker_id", "claim_id", unique=True),
        Index("ix_attempts_ended_at", "ended_at"),
        Index("ix_attempts_measured", "id", postgresql_where=text(MEASURED)),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    epoch: Mapped[int]
    worker_id: Mapped[str] = mapped_column(ForeignKey("workers.id"))
    incarnation: Mapped[str]
    worker_class: Mapped[str]
    claim_id: Mapped[str | None]  # what the worker calls the claim, so that it may ask for the answer again
    lease_token_sha256: Mapped[str]
    lease_expires_at: Mapped[datetime]
    phase: Mapped[str]
    plan: Mapped[Json]
    step: Mapped[int | None]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    failure: Mapped[Json | None]
    canary: Mapped[Json | None]  # what one micro-step before training measured
    result: Mapped[Json | None]


class Event(Row):
    """One line of a job's history. `seq` comes from the job's row under its lock, so it has no gaps."""

    __tablename__ = "events"
    __table_args__ = (
        CheckConstraint(one_of("level", ["info", "warn", "error"]), name="level"),
        Index("ix_events_tracker", "job_id", "seq", postgresql_where=text("data ? 'tracker'")),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str]
    level: Mapped[str]
    message: Mapped[str]
    data: Mapped[Json | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class MetricChunk(Row):
    """Metric points as they were shipped: the bytes of metrics.jsonl from `start_offset` to `end_offset`."""

    __tablename__ = "metric_chunks"
    __table_args__ = (
        CheckConstraint("end_offset > start_offset", name="offsets"),
        Index("ix_metric_chunks_job_id_epoch", "job_id", "epoch"),
    )

    attempt_id: Mapped[str] = mapped_column(ForeignKey("attempts.id"), primary_key=True)
    start_offset: Mapped[int] = mapped_column(primary_key=True)
    end_offset: Mapped[int]
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    epoch: Mapped[int]
    last_step: Mapped[int]
    points: Mapped[list[Json]]


class Checkpoint(Row):
    """A checkpoint that is complete in the store; without files it was, and its numbers are what is left.

    The same step of a later attempt replaces an earlier one.
    """

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("job_id", "step"), holding("checkpoints"))

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    attempt_id: Mapped[str] = mapped_column(ForeignKey("attempts.id"))
    step: Mapped[int]
    manifest_sha256: Mapped[str]
    files: Mapped[list[Json]]
    metrics: Mapped[Json]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Artifact(Row):
    """A result of an attempt: a set of files, all of them in the store."""

    __tablename__ = "artifacts"
    __table_args__ = (
        UniqueConstraint("attempt_id", "kind"),
        Index("ix_artifacts_job_id", "job_id"),
        holding("artifacts"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    attempt_id: Mapped[str] = mapped_column(ForeignKey("attempts.id"))
    kind: Mapped[str]
    files: Mapped[list[Json]]
    details: Mapped[Json]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class EvaluatedRow(Row):
    """One row of an evaluation. `place` counts from 1, the row that speaks most against the model first."""

    __tablename__ = "evaluated_rows"
    __table_args__ = (UniqueConstraint("job_id", "place"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    line: Mapped[int] = mapped_column(primary_key=True)
    place: Mapped[int]
    data: Mapped[Json]


class GateVerdict(Row):
    """What the gate said of a candidate, and of whom it was compared with; its numbers are in `verdict`."""

    __tablename__ = "gate_verdicts"
    __table_args__ = (Index("ix_gate_verdicts_project_id", "project", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str]
    candidate: Mapped[str] = mapped_column(ForeignKey("jobs.id"))  # an evaluation
    champion: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))  # another; null where the first measured both
    word: Mapped[str]
    verdict: Mapped[Json]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class WorkerNode(Row):
    """A worker as it last described itself. `hardware` is the machine at rest, `hardware_now` at its last heartbeat."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    incarnation: Mapped[str]
    hostname: Mapped[str]
    version: Mapped[str]
    worker_class: Mapped[str]
    hardware: Mapped[Json]
    hardware_now: Mapped[Json]
    slots: Mapped[int]
    busy_slots: Mapped[int] = mapped_column(server_default=text("0"))
    draining: Mapped[bool] = mapped_column(server_default=text("false"))
    registered_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    woken_at: Mapped[datetime | None]
    quarantined_until: Mapped[datetime | None]
    quarantine_reason: Mapped[str | None]
    trusted_since: Mapped[datetime | None]  # an administrator ended a quarantine: what was lost before does not count
    key_lineage: Mapped[str | None]  # of the key that registered it; null until a call after an upgrade


class ApiBeat(Row):
    """A process of the API as it last said that it serves, and for how long it has said so without a gap."""

    __tablename__ = "api_beats"

    process: Mapped[str] = mapped_column(primary_key=True)
    beat_at: Mapped[datetime]
    steady_seconds: Mapped[float]


class OutboxMessage(Row):
    """Something to tell the outside world, recorded in the transaction that made it true."""

    __tablename__ = "outbox"
    __table_args__ = (Index("ix_outbox_due", "not_before", postgresql_where=text("delivered_at IS NULL")),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    topic: Mapped[str]
    payload: Mapped[Json]
    tries: Mapped[int] = mapped_column(server_default=text("0"))
    not_before: Mapped[datetime] = mapped_column(server_default=func.now())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    delivered_at: Mapped[datetime | None]


class IdempotencyKey(Row):
    """A key that a client chose for one request, so that sending it again finds the job that the first one made."""

    __tablename__ = "idempotency_keys"

    project: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[str]
    job_id: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
