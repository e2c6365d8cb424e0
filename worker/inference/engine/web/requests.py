"""Bodies of requests, checked: what a field may hold, and what this engine leaves out."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tunesmith.tuning.codes import ErrorCode
from tunesmith.worker.inference.engine.answering.sampling import MOST_TOP_LOGPROBS, Sampling
from tunesmith.worker.inference.engine.refusal import Refusal

MOST_STOPS, MOST_STOP_CHARACTERS = 16, 256
MOST_CHOICES, MOST_PROMPTS = 16, 64
_LEFT_OUT = ("echo", "best_of", "suffix")  # what would have to change an answer
Number = Annotated[float, Field(allow_inf_nan=False)]
T = TypeVar("T", bound=BaseModel)


class StreamOptions(BaseModel):
    """What a stream has beside its text."""

    include_usage: bool = False


class Asked(BaseModel):
    """What both kinds of completion take. Fields that are nobody's here are passed over, as OpenAI's clients expect."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: str = Field(max_length=1024)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=1, ge=1, le=MOST_CHOICES)
    temperature: Number | None = Field(default=1.0, ge=0, le=2)
    top_p: Number | None = Field(default=1.0, gt=0, le=1)
    top_k: int | None = Field(default=0, ge=-1)
    min_p: Number | None = Field(default=0.0, ge=0, le=1)
    repetition_penalty: Number | None = Field(default=1.0, gt=0, le=10)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    frequency_penalty: Number | None = Field(default=0.0, ge=-2, le=2)
    presence_penalty: Number | None = Field(default=0.0, ge=-2, le=2)
    logit_bias: dict[str, Number] | None = Field(default=None, max_length=300)

    @field_validator("stop")
    @classmethod
    def _few_and_short(cls, stop: str | list[str] | None) -> str | list[str] | None:
        stops = [stop] if isinstance(stop, str) else stop or []
        if len(stops) > MOST_STOPS:
            raise ValueError(f"there are {len(stops):,}, at most {MOST_STOPS} are allowed")
        if any(not text or len(text) > MOST_STOP_CHARACTERS for text in stops):
            raise ValueError(f"each has at least one and at most {MOST_STOP_CHARACTERS} characters")
        return stop

    @property
    def stops(self) -> list[str]:
        """As a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, *, vocabulary: int, top_logprobs: int | None) -> Sampling:
        """How to draw.

        Raises:
            Refusal: a bias is for no token of the model.
        """
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p or 1.0,
            top_k=max(self.top_k or 0, 0),
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            logit_bias=_biases(self.logit_bias or {}, vocabulary=vocabulary),
            top_logprobs=top_logprobs,
        )


class ChatAsked(Asked):
    """Body of /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(min_length=1, max_length=10_000)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(default=None, ge=0, le=MOST_TOP_LOGPROBS)
    tools: list[dict[str, Any]] | None = Field(default=None, max_length=1_000)
    tool_choice: Literal["auto", "none"] | None = None
    response_format: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @field_validator("response_format")
    @classmethod
    def _only_text(cls, wanted: dict[str, Any] | None) -> dict[str, Any] | None:
        if wanted is not None and wanted.get("type") != "text":
            raise ValueError('only {"type": "text"} is offered: answers are not held to a schema')
        return wanted

    @field_validator("chat_template_kwargs")
    @classmethod
    def _none_for_the_template(cls, given: dict[str, Any] | None) -> dict[str, Any] | None:
        if given:
            raise ValueError("messages are rendered as in training, without more variables. Leave it out")
        return given


class CompletionAsked(Asked):
    """Body of /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int | None = Field(default=16, ge=1)
    logprobs: int | None = Field(default=None, ge=0, le=MOST_TOP_LOGPROBS)
    echo: Literal[False] | None = False
    best_of: Literal[1] | None = None
    suffix: None = None

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """One for each answer wanted, as text or as tokens.

        Raises:
            Refusal: there is none, or too many.
        """
        if isinstance(self.prompt, str):
            return [self.prompt]
        if not self.prompt or (len(self.prompt) > MOST_PROMPTS and not isinstance(self.prompt[0], int)):
            raise Refusal(
                f"'prompt' holds {len(self.prompt):,} prompts, 1 to {MOST_PROMPTS} are allowed.", param="prompt"
            )
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt


class LoadAsked(BaseModel):
    """Body of /v1/load_lora_adapter."""

    lora_name: str = Field(min_length=1, max_length=1024)
    lora_path: str = Field(min_length=1, max_length=4096)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")


class UnloadAsked(BaseModel):
    """Body of /v1/unload_lora_adapter."""

    lora_name: str = Field(min_length=1, max_length=1024)


def read(body: bytes, kind: type[T]) -> T:
    """The body as what the route takes.

    Raises:
        Refusal: it is no JSON object, or a field cannot be as it is.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal("The body is not JSON.", code=ErrorCode.INVALID_JSON) from error
    if not isinstance(value, dict):
        raise Refusal("The body is JSON, but no object.", code=ErrorCode.INVALID_JSON)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _refusal(error) from error


def _refusal(error: ValidationError) -> Refusal:
    """By the first field at fault; of a field of several types, by the type that comes nearest."""
    found = error.errors(include_url=False, include_context=False, include_input=False)[0]
    param = str(found["loc"][0]) if found["loc"] else None
    if found["type"] == "missing":
        return Refusal(f"'{param}' is missing.", code=ErrorCode.MISSING_REQUIRED_PARAMETER, param=param)
    if param in _LEFT_OUT and found["type"] in ("none_required", "literal_error"):
        return Refusal(f"'{param}' is not offered by this engine. Leave it out.", param=param)
    message = str(found["msg"]).removeprefix("Value error, ").replace(" after validation", "")
    return Refusal(f"'{param}' cannot be as it is: {message[:1].lower()}{message[1:]}.", param=param)


def _biases(given: dict[str, float], *, vocabulary: int) -> dict[int, float]:
    biases = {}
    for token, bias in given.items():
        if not token.isdecimal() or len(token) > 9 or int(token) >= vocabulary or abs(bias) > 100:
            raise Refusal(
                f"'logit_bias' takes tokens of 0 to {vocabulary - 1} and numbers of -100 to 100.", param="logit_bias"
            )
        biases[int(token)] = bias
    return biases
