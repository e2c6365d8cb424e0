"""Bodies of the routes about evaluations."""

from typing import Annotated

from pydantic import ConfigDict, Field

from tunesmith.tuning.evaluation import AnswerTokens, RowNumber
from tunesmith.tuning.gate.verdict import GateRule
from tunesmith.tuning.scoring.scores import Score
from tunesmith.tuning.values.base import Value

Name = Annotated[str, Field(min_length=1, max_length=256)]


class EvaluationCreate(Value):
    """`POST /v1/evaluations`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "ft:my-base:acme::0192f3aa", "file": "file-1", "against": "base"}],
        }
    )

    model: Name
    """A base model, a fine-tuned one, or a checkpoint as the list of a job's checkpoints names it."""
    file: Name
    """Id of a file of rows, uploaded with purpose `fine-tune`; rows of preference pairs cannot be evaluated."""
    against: Name | None = None
    """Whom to compare it with: another model or checkpoint, or `base` for the base that the model was made of."""
    score: Score | None = None
    """How to score answers. Without it none is generated, and losses alone are measured."""
    rows: RowNumber = 1000
    """The most rows; of more those with the lowest SHA-256, the same for every model."""
    max_answer_tokens: AnswerTokens = 256
    """The most tokens of an answer. None has more than twice those of the longest expected answer, or 32."""
    gate: GateRule = GateRule()
    """When the model counts as better than the other."""
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    """Labels to find it by."""


class ContestRequest(Value):
    """A candidate beside a champion on the rows of one guard rail."""

    candidate: Name
    """Id of an evaluation of the candidate."""
    champion: Name | None = None
    """Id of one of the champion on the same rows; absent where the first measured both."""


class VerdictRequest(Value):
    """`POST /v1/evaluations/{evaluation_id}/verdict`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"champion": "eval-2"}]})

    champion: Name | None = None
    """Id of an evaluation of the champion on the same rows; absent where the first measured both."""
    guards: Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=64)], ContestRequest], Field(max_length=16)
    ] = {}
    """Guard rails by name: other rows, on which the candidate must not be shown to be worse."""
    gate: GateRule | None = None
    """When the candidate counts as better; absent as its evaluation was asked."""
