"""What an answer used."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Used:
    """Requests answered, and their tokens."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Used") -> "Used":
        return Used(
            requests=self.requests + other.requests,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
        )
