"""The words that a user chooses from. Nothing is imported, so that the command can offer them and still start quickly.

`auto` means: the planner chooses, and the plan shows the number and why.
"""

from enum import StrEnum
from typing import Literal


class Method(StrEnum):
    """How the weights are changed."""

    FULL = "full"
    LORA = "lora"
    QLORA = "qlora"


class JobKind(StrEnum):
    """What a job does."""

    TRAINING = "training"
    EVALUATION = "evaluation"


class Objective(StrEnum):
    """What is learned, by the API's own names."""

    SUPERVISED = "supervised"
    DPO = "dpo"


class Goal(StrEnum):
    """What to prefer among plans that fit."""

    BALANCED = "balanced"
    QUALITY = "quality"
    SPEED = "speed"
    COST = "cost"


class WebhookEventType(StrEnum):
    """What webhooks tell of, by the API's own names."""

    JOB_SUCCEEDED = "fine_tuning.job.succeeded"
    JOB_FAILED = "fine_tuning.job.failed"
    JOB_CANCELLED = "fine_tuning.job.cancelled"


class KeyRole(StrEnum):
    """What a key may do."""

    ADMIN = "admin"  # everything of its project, and what concerns the whole service
    MEMBER = "member"  # everything of its project
    READER = "reader"  # look at what is its project's
    WORKER = "worker"  # take jobs and report about them


Auto = Literal["auto"]
AutoOrMethod = Literal["auto", Method.FULL, Method.LORA, Method.QLORA]  # for typer, which takes no unions
OnDroppedContent = Literal["warn", "refuse"]  # when the chat template leaves out words of the assistant
Validation = Literal["auto", "none"]  # without a validation file: hold out a tenth of the rows, or train on all
OnLongRow = Literal["truncate", "refuse"]  # what to do with a row of more tokens than max_seq_length


class Overlap(StrEnum):
    """What a schedule does when the job of an earlier firing has not ended."""

    SKIP = "skip"
    QUEUE = "queue"  # waits for the end of that job; one firing at most
    CANCEL_PREVIOUS = "cancel_previous"


class Missed(StrEnum):
    """What a schedule does when nobody could fire it in time."""

    RUN_LATEST = "run_latest"
    SKIP = "skip"


class StartFrom(StrEnum):
    """What a schedule's jobs start from."""

    BASE = "base"
    CHAMPION = "champion"  # the model that the schedule's alias stands for; the base while it stands for none


class Promotion(StrEnum):
    """When the result of a schedule's job becomes what its alias stands for."""

    ALWAYS = "always"
    NEVER = "never"
    ON_VERDICT = "on_verdict"


class FiringState(StrEnum):
    """What has become of one due time of a schedule."""

    DUE = "due"  # recorded, not yet decided
    WAITING = "waiting"  # for the end of an earlier job
    SUBMITTED = "submitted"
    AWAITING_VERDICT = "awaiting_verdict"
    TRAINED = "trained"
    PROMOTED = "promoted"
    REFUSED = "refused"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    MISSED = "missed"


UNDECIDED = (FiringState.DUE, FiringState.WAITING)
UNDER_WAY = (FiringState.SUBMITTED, FiringState.AWAITING_VERDICT)
AliasAction = Literal["set", "roll_back", "delete"]
Trigger = Literal["cron", "manual"]
