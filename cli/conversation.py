"""A conversation with one model: what was said so far, and the next answer piece by piece."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tunesmith.tuning.values.json_objects import Json, present

if TYPE_CHECKING:
    from tunesmith.cli.client import Client


@dataclass(frozen=True)
class Piece:
    """Some words of an answer; `probability` is that of the token, where it was asked for."""

    text: str
    probability: float | None = None


@dataclass(frozen=True)
class Wait:
    """The answer has not begun; what it waits for."""

    what: str


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How answers are drawn; None leaves it to the engine."""

    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    probabilities: bool = False


@dataclass
class Conversation:
    """Every answer becomes a part of what the next question continues."""

    model: str
    manner: Manner
    messages: list[Json] = field(default_factory=list)

    def ask(self, client: "Client", question: str) -> Iterator[Piece | Wait]:
        """The answer as it comes. One that is broken off leaves the conversation as it was before the question."""
        asked = [*self.messages, {"role": "user", "content": question}]
        said: list[str] = []
        with client.chat(self._body(asked)) as chunks:
            for chunk in chunks:
                if waiting := chunk.get("waiting"):
                    yield Wait(str(waiting))
                for piece in _pieces(chunk):
                    said.append(piece.text)
                    yield piece
        self.messages = [*asked, {"role": "assistant", "content": "".join(said)}]

    def _body(self, messages: list[Json]) -> Json:
        manner = self.manner
        body = present(temperature=manner.temperature, max_tokens=manner.max_tokens, seed=manner.seed)
        return {
            "model": self.model,
            "messages": messages,
            **body,
            **({"logprobs": True} if manner.probabilities else {}),
        }


def _pieces(chunk: Json) -> Iterator[Piece]:
    for choice in chunk.get("choices") or ():
        tokens = (choice.get("logprobs") or {}).get("content") or ()
        for token in tokens:
            yield Piece(str(token["token"]), math.exp(min(0.0, float(token["logprob"]))))
        text = (choice.get("delta") or {}).get("content")
        if text and not tokens:
            yield Piece(str(text))
