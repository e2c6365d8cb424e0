"""Bodies of the schedule routes. The settings of a schedule are stored as they were sent."""

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from tunesmith.service.aliases.names import check_alias
from tunesmith.tuning.api.requests.jobs import JobRequest
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.evaluation import RowNumber
from tunesmith.tuning.gate.verdict import GateRule
from tunesmith.tuning.scoring.scores import Score, judge_of
from tunesmith.tuning.values.base import Value
from tunesmith.tuning.words import Missed, Overlap, Promotion, StartFrom

LABELS = ("schedule", "firing")  # in the metadata of the jobs that a schedule makes
_MOST_LABELS = 16 - len(LABELS)
_EXAMPLE: JsonDict = {
    "name": "support-nightly",
    "cron": "0 3 * * *",
    "timezone": "Europe/Berlin",
    "data": {"filename": "support.jsonl"},
    "job": {"model": "my-base", "suffix": "support"},
    "alias": "ft:support@prod",
    "promotion": "on_verdict",
}

Text = Annotated[str, Field(min_length=1, max_length=256)]
Label = Annotated[str, Field(max_length=512)]


class DataSource(Value):
    """Where the rows of the next job are. Exactly one of these is given."""

    file: Text | None = None
    """The id of a file, always the same."""
    filename: Text | None = None
    """The newest file that was uploaded under this name."""
    metadata: Annotated[dict[Text, Label], Field(min_length=1, max_length=16)] | None = None
    """The newest file that was uploaded with all of these labels."""
    url: Annotated[str, Field(min_length=1, max_length=2048)] | None = None
    """An https address, which the operator must have allowed. What came is kept as a file, with its SHA-256."""

    def check(self) -> None:
        """Refuse none and more than one.

        Raises:
            InvalidRequest: with the field.
        """
        given = [name for name, value in self if value is not None]
        if len(given) != 1:
            raise InvalidRequest(
                f"'data' names {' and '.join(given) or 'nothing'}.",
                code=ErrorCode.INVALID_VALUE,
                param="data",
                hint="Name the rows in one way: file, filename, metadata or url.",
            )


class GateFile(Value):
    """Rows to measure on. One of the two is given."""

    file: Text | None = None
    """The id of a file, always the same."""
    filename: Text | None = None
    """The newest file that was uploaded under this name."""

    def check(self, param: str) -> None:
        """Refuse none and both.

        Raises:
            InvalidRequest: with the field.
        """
        if (self.file is None) == (self.filename is None):
            message = f"'{param}' names {'nothing' if self.file is None else 'file and filename'}."
            raise InvalidRequest(message, code=ErrorCode.INVALID_VALUE, param=param, hint="Give file or filename.")


class ScheduleGate(Value):
    """How a result is compared with the champion; with the base while there is none."""

    rows: GateFile
    """Held-out rows, which no job of the schedule trains on."""
    guards: Annotated[dict[Text, GateFile], Field(max_length=8)] = {}
    """Guard rails by name: other rows, on which the result must not be shown to be worse."""
    score: Score | None = None
    """How answers are scored; without it the loss decides."""
    rule: GateRule = GateRule()
    """When the result counts as better."""
    most_rows: RowNumber = 1000
    """Of more rows, those with the lowest SHA-256 are read."""

    def check(self) -> None:
        """Refuse rows that are not named in one way, and a score or a rule that nothing can be decided by.

        Raises:
            InvalidRequest: with the field.
        """
        self._check_score()
        self.rows.check("gate.rows")
        for name, rows in self.guards.items():
            rows.check(f"gate.guards.{name}")

    def _check_score(self) -> None:
        if self.score is not None:
            try:
                judge_of(self.score)
            except InvalidRequest as error:
                error.param = f"gate.{error.param}"
                raise
        elif self.rule.decide_by == "score":
            raise InvalidRequest(
                "The gate is to decide by a score, and nothing is scored.",
                code=ErrorCode.INVALID_VALUE,
                param="gate.rule.decide_by",
                hint="Send gate.score too, or let the loss decide.",
            )


class ScheduleSettings(Value):
    """`PUT /v1/schedules/{schedule}`: everything about a schedule but its name."""

    model_config = ConfigDict(json_schema_extra={"examples": [{k: v for k, v in _EXAMPLE.items() if k != "name"}]})

    cron: Annotated[str, Field(min_length=1, max_length=120)]
    """Minute, hour, day of month, month, day of week."""
    timezone: Annotated[str, Field(max_length=80)] = "UTC"
    """Whose clock `cron` is about, as in `Europe/Berlin`."""
    data: DataSource
    """Where the rows are, looked up each time."""
    job: JobRequest
    """The job as it would be submitted, without its training file."""
    start_from: StartFrom = StartFrom.BASE
    """`champion`: train the model that `alias` stands for further; `job.model` while it has never stood for one."""
    alias: Text | None = None
    """The name that results are promoted to."""
    promotion: Promotion = Promotion.NEVER
    """When `alias` is made to stand for a result."""
    gate: ScheduleGate | None = None
    """With promotion `on_verdict`: the service measures each result itself. Without a gate a verdict is posted."""
    overlap: Overlap = Overlap.SKIP
    """What to do while the job of an earlier firing has not ended."""
    missed: Missed = Missed.RUN_LATEST
    """What to do with a due time at which nothing could fire: run the latest one late, or skip it."""
    grace_seconds: Annotated[int, Field(ge=1, le=86_400)] = 300
    """How late a firing may be and not count as missed."""
    jitter_seconds: Annotated[int, Field(ge=0, le=3600)] = 0
    """Fire up to so much later, by a delay that is always the same for this schedule."""
    skip_unchanged: bool = True
    """Make no job when data, base and settings are those of the last one."""
    keep_results: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Delete all but so many of the newest results, unless something needs one; null keeps all."""

    @property
    def grace(self) -> timedelta:
        """How late a firing may be."""
        return timedelta(seconds=self.grace_seconds)

    @property
    def named_files(self) -> dict[str, str]:
        """The files that are named by their ids, each under its field."""
        gate = {"gate.rows.file": self.gate.rows.file} if self.gate else {}
        guards = {f"gate.guards.{name}.file": rows.file for name, rows in self.gate.guards.items()} if self.gate else {}
        named = {"data.file": self.data.file, "job.validation_file": self.job.validation_file, **gate, **guards}
        return {param: file for param, file in named.items() if file is not None}

    def check(self) -> None:
        """Refuse what one field allows and another forbids.

        Raises:
            InvalidRequest: with the field.
        """
        self.data.check()
        self._check_job()
        self._check_gate()
        if self.alias is not None:
            check_alias(self.alias, param="alias")
        elif self.start_from is StartFrom.CHAMPION or self.promotion is not Promotion.NEVER:
            raise InvalidRequest(
                "Which alias stands for the champion is not said.",
                code=ErrorCode.MISSING_REQUIRED_PARAMETER,
                param="alias",
                hint='Name it, as in "alias": "ft:support@prod".',
            )

    def _check_gate(self) -> None:
        if self.gate is None:
            return
        self.gate.check()
        if self.promotion is not Promotion.ON_VERDICT:
            raise InvalidRequest(
                f"A gate gives verdicts, and promotion is {self.promotion}.",
                code=ErrorCode.INVALID_VALUE,
                param="promotion",
                hint='Send "promotion": "on_verdict", or leave out the gate.',
            )

    def _check_job(self) -> None:
        try:
            self.job.check()
        except InvalidRequest as error:
            error.param = f"job.{error.param}"
            raise
        if isinstance(self.job.tunesmith.deadline, int):
            raise InvalidRequest(
                "A schedule makes jobs again and again, and this deadline is one moment.",
                code=ErrorCode.INVALID_VALUE,
                param="job.tunesmith.deadline",
                hint="Send a span from the creation of each job on, such as 6h.",
            )
        labels = self.job.metadata or {}
        if len(labels) > _MOST_LABELS or labels.keys() & set(LABELS):
            message = f"A schedule labels its jobs with {' and '.join(LABELS)} itself and takes {_MOST_LABELS} more."
            raise InvalidRequest(message, code=ErrorCode.INVALID_VALUE, param="job.metadata", hint="Leave them out.")


class CreateSchedule(ScheduleSettings):
    """`POST /v1/schedules`."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    """What the project calls it: small letters, digits, `.`, `_` and `-`."""

    def settings(self) -> ScheduleSettings:
        """The same without the name."""
        return ScheduleSettings(**{name: getattr(self, name) for name in ScheduleSettings.model_fields})


class RunNow(Value):
    """`POST /v1/schedules/{schedule}/run`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"force": True}]})

    force: bool = False
    """Make a job even when nothing has changed since the last one."""


class PostVerdict(Value):
    """`POST /v1/schedules/{schedule}/firings/{firing}/verdict`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"verdict": "better", "summary": "exact match 0.81, was 0.77", "numbers": {}}]}
    )

    verdict: Literal["better", "not_better", "inconclusive"]
    """Only `better` promotes."""
    summary: Annotated[str, Field(max_length=512)] | None = None
    """The reason in a sentence."""
    numbers: dict[str, Any] | None = None
    """What it rests on, kept as it is."""
    champion: Text | None = None
    """What the result was compared with; absent: what the alias stood for when the job was made."""
