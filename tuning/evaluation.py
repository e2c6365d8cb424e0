"""An evaluation: models measured on the same rows, what is asked for and what comes of each row.

A worker writes a line of `EvaluatedRow` per row, and the service reads them: nothing else is agreed about a result.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from tunesmith.tuning.gate.paired import Pair, Sums
from tunesmith.tuning.gate.verdict import GateRule
from tunesmith.tuning.scoring.scores import Score
from tunesmith.tuning.values.base import Value

MOST_ROWS = 5000  # of one evaluation: each has an answer that people may page through
MOST_ANSWER_TOKENS = 1024
LONGEST_TEXT = 4000  # characters of a prompt's end, of what was expected and of an answer, as they are kept
ROWS_FILE = "rows.jsonl"  # in the result of an evaluation

RowNumber = Annotated[int, Field(ge=1, le=MOST_ROWS)]
AnswerTokens = Annotated[int, Field(ge=1, le=MOST_ANSWER_TOKENS)]


class SeenRows(Value):
    """Rows that a model has seen before it is measured on them: they flatter it."""

    model: str
    """The model."""
    file: str
    """Id of the file of its job, or of a job before that, in which they were looked for."""
    used_for: Literal["training", "validation"]
    """What that job did with the file: it trained on it, or chose its best weights by it."""
    rows: int | None
    """How many rows of the evaluation's file are in it; null where nobody could look."""
    text: str
    """The same as a sentence, with the reason where nobody could look."""


class EvaluationSpec(Value):
    """What is measured: `model`, beside `against` where there is one, on rows of a file."""

    model: str
    """The model, or the checkpoint, that is asked about."""
    against: str | None = None
    """Whom it is compared with."""
    score: Score | None = None
    """How answers are scored; without it none is generated."""
    rows: RowNumber = MOST_ROWS
    """The most rows: of more those with the lowest SHA-256, the same for every model."""
    max_answer_tokens: AnswerTokens = 256
    """The most tokens of an answer."""
    rule: GateRule = GateRule()
    """When the model counts as better."""
    needs: tuple[str, ...] = ()
    """Registered models that it reads, which stay until it has ended."""
    adapter_bytes: int = 0
    """Bytes of the adapters that lie on the base."""
    seen: tuple[SeenRows, ...] = ()
    """What its models have seen of the file before."""


class SideResult(Value):
    """One row under one model."""

    loss: float = Field(allow_inf_nan=False)
    """Negative log-likelihood of the row's taught tokens in nats, summed."""
    correct: int = Field(ge=0)
    """Of these tokens, those that the model thinks likeliest."""
    tokens: int = Field(ge=1)
    """How many they are, by this model's tokenizer."""
    answer: str | None = None
    """What the model says to the row's last prompt, greedily; null where nothing is scored."""
    finished: bool | None = None
    """Whether it ended its answer itself; null without an answer."""
    hit: bool | None = None
    """Whether the answer is right; null without an answer."""

    @property
    def sums(self) -> Sums:
        """As the gate takes them."""
        return Sums(self.tokens, self.loss, self.correct, self.hit)

    @property
    def mean_loss(self) -> float:
        """In nats a token."""
        return self.loss / self.tokens


class EvaluatedRow(Value):
    """One row under each model."""

    line: int = Field(ge=1)
    """Its line in the file, from 1."""
    prompt_end: str = ""
    """The end of what the answer answers; empty where nothing is scored."""
    expected: str = ""
    """What the row answers itself; empty where nothing is scored."""
    model: SideResult
    """Under the model."""
    against: SideResult | None = None
    """Under the other one; null where there is none."""


class Measures(Value):
    """One model on all rows."""

    rows: int
    """Rows that it was measured on."""
    tokens: int
    """Their taught tokens, by its tokenizer."""
    loss: float
    """Nats a token, the mean over tokens."""
    token_accuracy: float
    """Of the tokens, the share that it thinks likeliest."""
    score: float | None = None
    """Of the answers, the share that is right; null where none is scored."""
    unfinished: int | None = None
    """Answers that had not ended when their tokens ran out; null where none is scored."""


def measures_of(sides: Sequence[SideResult]) -> Measures:
    """The means over at least one row."""
    tokens = sum(side.tokens for side in sides)
    scored = [side for side in sides if side.hit is not None]
    return Measures(
        rows=len(sides),
        tokens=tokens,
        loss=sum(side.loss for side in sides) / tokens,
        token_accuracy=sum(side.correct for side in sides) / tokens,
        score=sum(bool(side.hit) for side in scored) / len(scored) if scored else None,
        unfinished=sum(not side.finished for side in scored) if scored else None,
    )


def pairs_of(rows: Sequence[EvaluatedRow]) -> list[Pair]:
    """Those that both models were measured on."""
    return [Pair(row.model.sums, row.against.sums) for row in rows if row.against is not None]
