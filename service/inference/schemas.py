"""Bodies of the routes that ask models: OpenAI's parameters, checked here for what no engine could take."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.values.base import Value
from tunesmith.tuning.values.json_objects import Json

_NOT_FOR_ENGINES = {"metadata", "store", "user", "service_tier", "safety_identifier", "prompt_cache_key"}

Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Stop = str | Annotated[list[str], Field(max_length=16)]


class ChatMessage(Value):
    """One turn. Answers of earlier requests may be sent back with whatever keys they came with."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    """Who says it."""
    content: str | list[Json] | None = None
    """What is said: text, or parts of type `text`."""


class StreamOptions(Value):
    """How an answer streams."""

    include_usage: bool | None = None
    """Whether a last chunk counts the tokens."""
    include_obfuscation: bool | None = None
    """Taken and without effect."""


class Sampling(Value):
    """What both ways to ask have in common."""

    model: str = Field(min_length=1, max_length=512)
    """A base model, or a fine-tuned one of the project."""
    stream: bool | None = None
    """Whether the answer comes token by token, as server-sent events."""
    stream_options: StreamOptions | None = None
    """How it streams."""
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    """0 always takes the likeliest token."""
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    """Only the likeliest tokens that together have this probability are drawn from; 0 takes the likeliest."""
    top_k: Annotated[int, Field(ge=-1)] | None = None
    """Only so many of the likeliest tokens are drawn from; -1 and 0 are no limit."""
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    """Only tokens at least so likely, relative to the likeliest, are drawn from."""
    seed: int | None = None
    """The same seed gives the same answer on the same engine."""
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    """How many answers."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """The most tokens of an answer."""
    stop: Stop | None = None
    """Up to 16 texts at which an answer ends."""
    presence_penalty: Penalty | None = None
    """Against tokens that came already."""
    frequency_penalty: Penalty | None = None
    """Against tokens, the more often they came."""
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Divides the odds of tokens that came already."""
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]] | None = None
    """Added to the odds of tokens, by their id: -100 to 100."""
    user: str | None = None
    """Taken and without effect."""
    metadata: dict[str, Any] | None = None
    """Taken and without effect."""
    store: bool | None = None
    """Taken and without effect: nothing is stored."""
    service_tier: str | None = None
    """Taken and without effect."""
    safety_identifier: str | None = None
    """Taken and without effect."""
    prompt_cache_key: str | None = None
    """Taken and without effect."""

    @property
    def wants_usage(self) -> bool:
        """Whether the client wants a last chunk with the tokens."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def for_engine(self) -> Json:
        """The body that an engine is sent, but for the model's name there. Tokens are always counted.

        Engines refuse a `top_p` of 0, which OpenAI takes and which means what a temperature of 0 does.
        """
        body = self.model_dump(mode="json", exclude_unset=True, exclude=_NOT_FOR_ENGINES | {"stream_options"})
        body = {name: value for name, value in body.items() if value is not None}
        if body.get("top_p") == 0:
            body = {**body, "top_p": 1, "temperature": 0}
        if self.stream:
            body["stream_options"] = {"include_usage": True}
        return body

    def check(self) -> None:
        """Refuse what one field allows and another forbids.

        Raises:
            InvalidRequest: with the field.
        """


class ChatCompletionCreate(Sampling):
    """Continue a conversation."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "my-base", "messages": [{"role": "user", "content": "Hello?"}]}]}
    )

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    """The conversation so far."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """The same as `max_tokens`."""
    logprobs: bool | None = None
    """Whether each token comes with its log-probability."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """How many of the likeliest tokens come with theirs, too."""
    tools: list[Json] | None = None
    """Functions that the model may call, for models whose template knows tools."""
    tool_choice: str | Json | None = None
    """Whether it must call one."""
    parallel_tool_calls: bool | None = None
    """Whether it may call several."""
    response_format: Json | None = None
    """The form of the answer, where the engine can force one."""
    reasoning_effort: str | None = None
    """For models that think before they answer."""
    chat_template_kwargs: Json | None = None
    """More variables for the chat template, where the engine takes them."""

    def check(self) -> None:
        """Refuse to show the likeliest tokens of an answer whose tokens come without log-probabilities.

        Raises:
            InvalidRequest: with the field.
        """
        if self.top_logprobs is not None and not self.logprobs:
            message = "'top_logprobs' is for answers with log-probabilities, which 'logprobs' asks for."
            hint = 'Send "logprobs": true with it.'
            raise InvalidRequest(message, code=ErrorCode.INVALID_VALUE, param="top_logprobs", hint=hint)


class CompletionCreate(Sampling):
    """Continue a text."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "my-base", "prompt": "Once upon a time"}]})

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1)]
        | Annotated[list[int], Field(min_length=1)]
        | Annotated[list[list[int]], Field(min_length=1)]
    )
    """One text or several, or their tokens."""
    echo: bool | None = None
    """Whether the prompt comes back before its continuation."""
    suffix: str | None = None
    """Text behind the gap, for models that fill gaps."""
    best_of: Annotated[int, Field(ge=1, le=128)] | None = None
    """How many are drawn, of which the likeliest come back."""
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """How many of the likeliest tokens come with their log-probabilities."""
