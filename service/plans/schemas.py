"""The body of a plan's request: a job's own body, with hardware and data that need not be here yet."""

from typing import Annotated

from pydantic import ConfigDict, Field

from tunesmith.tuning.api.requests.jobs import JobRequest, TunesmithOptions
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.datasets.assumptions import assumed_dataset
from tunesmith.tuning.datasets.lengths import BUCKETS
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.job import DatasetFacts
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.values.base import Value
from tunesmith.tuning.values.limits import MOST_ROW_TOKENS

_Count = Annotated[int, Field(ge=1, le=2**53)]


class CountedData(Value):
    """What a check of a training file counted elsewhere, so that the file need not be sent."""

    rows: _Count
    """Rows to train on."""
    validation_rows: Annotated[int, Field(ge=0, le=2**53)] = 0
    """Rows to evaluate on."""
    held_out_rows: Annotated[int, Field(ge=0, le=2**53)] = 0
    """Of those, rows taken from the training file."""
    measured_rows: Annotated[int, Field(ge=0, le=2**53)] = 0
    """Rows whose tokens the model's own tokenizer counted."""
    tokens: _Count
    """Tokens of the rows to train on."""
    longest_row_tokens: _Count
    """Tokens of the longest of them."""
    supervised_tokens: Annotated[int, Field(ge=0, le=2**53)]
    """Of the tokens, those that the model is taught to write."""
    row_length_counts: Annotated[list[Annotated[int, Field(ge=0, le=2**53)]], Field(max_length=BUCKETS)] = []
    """Rows by length, in the buckets of `tuning.datasets.lengths`."""


class PlanOptions(TunesmithOptions):
    """The options of a job, and hardware and data that need not be here yet."""

    on: Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=16)] = []
    """Machines that are not here: 8xA100-80G, 1xA100:30G (GiB free on each) or 8xCPU:32G."""
    host_memory_gib: Annotated[float, Field(ge=0.1, le=1_000_000, allow_inf_nan=False)] | None = None
    """Host memory of each of them."""
    rows: _Count | None = None
    """How many rows there would be, in place of a training file."""
    tokens_per_row: Annotated[int, Field(ge=1, le=MOST_ROW_TOKENS)] | None = None
    """Their mean length; without it a usual one."""
    dataset: CountedData | None = None
    """What a check of a file elsewhere counted, in place of the file."""


class PlanRequest(JobRequest):
    """`POST /v1/fine_tuning/plans`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "my-base", "tunesmith": {"rows": 5000, "on": ["1xRTX4090"]}}]}
    )

    training_file: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Id of an uploaded file; one of this, `tunesmith.rows` and `tunesmith.dataset` says what the data is."""
    tunesmith: PlanOptions = PlanOptions()
    """Everything that is ours."""

    def check(self) -> None:
        """Refuse what one field allows and another forbids.

        Raises:
            InvalidRequest: with the field.
        """
        super().check()
        ours = self.tunesmith
        sources = {
            "training_file": self.training_file,
            "tunesmith.rows": ours.rows,
            "tunesmith.dataset": ours.dataset,
        }
        given = [name for name, value in sources.items() if value is not None]
        if not given:
            message = "Missing required parameter: 'training_file'."
            hint = "A plan can do without a file: give tunesmith.rows, or the counts of one as tunesmith.dataset."
            raise InvalidRequest(message, code=ErrorCode.MISSING_REQUIRED_PARAMETER, param="training_file", hint=hint)
        if len(given) > 1:
            message = f"'{given[0]}' and '{given[1]}' both say what the data is: send one of them."
            raise InvalidRequest(message, code=ErrorCode.INVALID_VALUE, param=given[1])
        if ours.host_memory_gib is not None and not ours.on:
            message = "'tunesmith.host_memory_gib' belongs to 'tunesmith.on': live workers report theirs."
            raise InvalidRequest(message, code=ErrorCode.INVALID_VALUE, param="tunesmith.host_memory_gib")
        if ours.tokens_per_row is not None and ours.rows is None:
            message = "'tunesmith.tokens_per_row' belongs to 'tunesmith.rows'."
            raise InvalidRequest(message, code=ErrorCode.INVALID_VALUE, param="tunesmith.tokens_per_row")

    def has_validation_rows(self) -> bool:
        """A validation file, rows that will be held out, or those that were counted elsewhere."""
        counted = self.tunesmith.dataset
        return super().has_validation_rows() or (counted is not None and counted.validation_rows > 0)

    def facts(self, shape: ModelShape) -> DatasetFacts:
        """The data when there is no file."""
        ours = self.tunesmith
        if ours.dataset is not None:
            return DatasetFacts.model_validate(ours.dataset.model_dump())
        assert ours.rows is not None  # noqa: S101  `check` demands one of the three
        longest = None if ours.max_seq_length == "auto" else ours.max_seq_length
        return assumed_dataset(shape, rows=ours.rows, tokens_per_row=ours.tokens_per_row, longest_row_tokens=longest)
