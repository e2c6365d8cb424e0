"""The life of a job and of an attempt: one transition table, enforced again by a trigger in the database.

    validating_files --files_valid--> queued --claim--> running --succeed--> succeeded
           |                          |  ^                |--fail-----> failed
           |--files_invalid-> failed  |  |                |--cancel---> cancelled
           |--cancel-> cancelled      |  +---requeue------+
                                      |--cancel-> cancelled           (running) --pause--> paused --resume--> queued
                                      |--fail---> failed              (queued)  --pause--> paused --cancel--> cancelled

Cancelling or pausing a *running* job is a mark on its row, not a state: the worker sees the mark in a heartbeat reply,
stops, and its finish report makes the transition. Nothing is imported here, so that the command starts quickly.
"""

from enum import StrEnum


class JobState(StrEnum):
    """The public states, exactly those of the OpenAI API, so that existing polling loops end."""

    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class JobTransition(StrEnum):
    """What can happen to a job. The comment says who causes it."""

    FILES_VALID = "files_valid"  # the service, once the files of the job are known to be good
    FILES_INVALID = "files_invalid"  # the service
    CLAIM = "claim"  # a worker, through POST /internal/claims
    REQUEUE = "requeue"  # a worker that drains, or the keeper when a lease has expired
    SUCCEED = "succeed"  # a worker's finish report
    FAIL = "fail"  # a worker's finish report, or the keeper when attempts are used up
    CANCEL = "cancel"  # the user (not running), or the worker's finish report (running)
    PAUSE = "pause"  # the user (not running), or the worker's finish report (running)
    RESUME = "resume"  # the user


TRANSITIONS: dict[tuple[JobState, JobTransition], JobState] = {
    (JobState.VALIDATING_FILES, JobTransition.FILES_VALID): JobState.QUEUED,
    (JobState.VALIDATING_FILES, JobTransition.FILES_INVALID): JobState.FAILED,
    (JobState.VALIDATING_FILES, JobTransition.CANCEL): JobState.CANCELLED,
    (JobState.QUEUED, JobTransition.CLAIM): JobState.RUNNING,
    (JobState.QUEUED, JobTransition.CANCEL): JobState.CANCELLED,
    (JobState.QUEUED, JobTransition.FAIL): JobState.FAILED,
    (JobState.QUEUED, JobTransition.PAUSE): JobState.PAUSED,
    (JobState.RUNNING, JobTransition.REQUEUE): JobState.QUEUED,
    (JobState.RUNNING, JobTransition.SUCCEED): JobState.SUCCEEDED,
    (JobState.RUNNING, JobTransition.FAIL): JobState.FAILED,
    (JobState.RUNNING, JobTransition.CANCEL): JobState.CANCELLED,
    (JobState.RUNNING, JobTransition.PAUSE): JobState.PAUSED,
    (JobState.PAUSED, JobTransition.RESUME): JobState.QUEUED,
    (JobState.PAUSED, JobTransition.CANCEL): JobState.CANCELLED,
}


class Phase(StrEnum):
    """Where a running attempt is: finer than the public state, free to grow."""

    CLAIMED = "claimed"
    PREPARING = "preparing"
    CANARY = "canary"
    TRAINING = "training"
    EVALUATING = "evaluating"
    EXPORTING = "exporting"
    UPLOADING = "uploading"


class Outcome(StrEnum):
    """How an attempt ended. `lost` and `preempted` lead back to the queue."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"
    PREEMPTED = "preempted"
    LOST = "lost"
