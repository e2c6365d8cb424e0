"""Evaluations: models measured on rows, and what the gate says of them."""

from typing import Annotated, Literal

from tunesmith.tuning.api.base import Answer, Recorded
from tunesmith.tuning.api.jobs import JobFailureDetails, JobProgress
from tunesmith.tuning.api.lists import Named, Page
from tunesmith.tuning.evaluation import Measures, SeenRows, SideResult
from tunesmith.tuning.gate.verdict import GateRule, Verdict
from tunesmith.tuning.state import JobState
from tunesmith.tuning.values.json_objects import Json


class EvaluationError(JobFailureDetails):
    """Why an evaluation failed."""

    code: str
    """A stable word for programs."""
    message: str
    """What happened, with the numbers."""
    param: str | None
    """The field of the request that must change; null where none would help."""


class EvaluationObject(Named):
    """One evaluation. Its events, attempts and artifacts are read as those of a job, under the same id."""

    id: str
    """Its identifier, `eval-...`."""
    object: Literal["tunesmith.evaluation"] = "tunesmith.evaluation"
    """Always `tunesmith.evaluation`."""
    created_at: int
    """When it was created, in Unix seconds."""
    finished_at: int | None
    """When it ended, in Unix seconds; null before."""
    status: JobState
    """As of a job."""
    model: str
    """The model that is measured."""
    against: str | None
    """Whom it is compared with; null where nobody."""
    file: str
    """Id of the file whose rows it is measured on."""
    rows: int
    """How many rows are read."""
    score: Json | None
    """How answers are scored; null where none is generated."""
    gate: Annotated[Json, Recorded(GateRule)]
    """When the model counts as better."""
    measures: Annotated[Json, Recorded(Measures)] | None
    """The model on all rows; null before it has succeeded."""
    against_measures: Annotated[Json, Recorded(Measures)] | None
    """The other one on all rows; null where there is none, and before."""
    seen_rows: list[Annotated[Json, Recorded(SeenRows)]]
    """Rows that its models were trained on, or chosen by: a warning for each file that has some."""
    verdict: Annotated[Json, Recorded(Verdict)] | None
    """What the gate says; null before the end, and where the model is compared with nobody."""
    error: EvaluationError | None
    """Why it failed; null unless it did."""
    metadata: dict[str, str] | None
    """Its labels."""
    phase: str | None
    """How far a running one is."""
    progress: JobProgress
    """Rows that are done, counted for each model, and again for its answer."""
    waiting_reason: str | None
    """Why no worker can take it now; null when one can."""
    cancel_requested: bool
    """Whether its worker has been asked to stop."""
    attempts: int
    """How often it was tried."""


class VerdictObject(Verdict, Answer):
    """What the gate says of a candidate."""

    object: Literal["tunesmith.verdict"] = "tunesmith.verdict"
    """Always `tunesmith.verdict`."""
    candidate: str
    """Id of the candidate's evaluation."""
    champion: str | None
    """Id of the champion's; null where the first measured both."""


class EvaluationPage(Page[EvaluationObject]):
    """One page of the project's evaluations, newest first."""


class EvaluatedRowObject(Named):
    """One row of an evaluation."""

    id: str
    """Its line as a text, to page by."""
    object: Literal["tunesmith.evaluated_row"] = "tunesmith.evaluated_row"
    """Always `tunesmith.evaluated_row`."""
    line: int
    """Its line in the file, from 1."""
    prompt_end: str
    """The end of what the answer answers; empty where nothing is scored."""
    expected: str
    """What the row answers itself; empty where nothing is scored."""
    model: Annotated[Json, Recorded(SideResult)]
    """Under the model."""
    against: Annotated[Json, Recorded(SideResult)] | None
    """Under the other one; null where there is none."""


class EvaluatedRowPage(Page[EvaluatedRowObject]):
    """One page of an evaluation's rows."""
