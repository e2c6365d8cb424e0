"""How training goes: metric points and sample answers."""

from typing import Annotated, Literal

from tunesmith.tuning.api.base import Answer, Recorded
from tunesmith.tuning.api.lists import Listing
from tunesmith.tuning.values.json_objects import Json


class MetricPoint(Answer):
    """The numbers of one step. What was not measured there is null or absent; step 0 is the untrained model."""

    step: int
    """The optimizer step."""
    total_steps: int | None = None
    """Steps of the whole run."""
    epoch: float | None = None
    """Passes over the data so far."""
    train_loss: float | None = None
    """Mean loss over the step's supervised tokens, for preference training over its rows."""
    valid_loss: float | None = None
    """The same over held-out rows, at evaluations."""
    train_mean_token_accuracy: float | None = None
    """Share of the step's supervised tokens that the model would have written, from 0 to 1."""
    valid_mean_token_accuracy: float | None = None
    """The same over held-out rows, at evaluations."""
    learning_rate: float | None = None
    """The rate of the step."""
    grad_norm: float | None = None
    """Norm of all gradients before they were clipped."""
    tokens_per_second: float | None = None
    """Speed of the newest steps."""
    supervised_tokens: int | None = None
    """Tokens of the step that the model was taught to write."""
    trained_tokens: int | None = None
    """Tokens trained on so far."""
    mfu: float | None = None
    """Model FLOPs utilisation: the share of what the device can multiply, from 0 to 1."""
    memory_bytes: int | None = None
    """The peak of the device's memory so far."""
    eta_seconds: float | None = None
    """How much longer training is expected to take."""
    time: float | None = None
    """When the step ended, in Unix seconds."""


class MetricPointList(Answer):
    """One point for each step, in order."""

    object: Literal["list"] = "list"
    """Always `list`."""
    data: list[Annotated[Json, Recorded(MetricPoint)]]
    """The points as the trainer wrote them; it may write more numbers than are described here."""


class SampleAnswer(Answer):
    """What the model answered at one evaluation."""

    step: int
    """The optimizer step of the evaluation; 0 is the untrained model."""
    answer: str
    """The answer, perhaps cut."""
    finished: bool
    """Whether the model ended the answer itself."""


class SampleObject(Answer):
    """A held-out prompt with the model's answers."""

    object: Literal["tunesmith.sample"] = "tunesmith.sample"
    """Always `tunesmith.sample`."""
    line: int
    """The line of the file that the prompt is from."""
    prompt_end: str
    """The end of the prompt."""
    reference: str
    """What the file has as the answer."""
    answers: list[SampleAnswer]
    """One for each evaluation, in the order of steps."""


class SampleList(Listing[SampleObject]):
    """Held-out prompts in the order of the file."""
