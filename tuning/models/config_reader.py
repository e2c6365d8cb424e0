"""Reads numbers out of a model's config.json and says which field is missing or absurd."""

import math
from collections.abc import Mapping
from typing import Any

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest

_ORIGINAL = "Use the config.json that came with the weights."
_EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_eps", "norm_epsilon")
_ROPE = ("rope_parameters", "rope_scaling")
LARGEST_DIMENSION = 100_000_000  # the longest context published is 10,485,760 tokens (Llama 4 Scout)


class ConfigReader:
    """A view of one config.json whose every access is checked.

    Raises:
        InvalidRequest: from any method, with `param` naming the field as `config.<field>`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    @property
    def model_type(self) -> str:
        """The family's own name for itself."""
        value = self._config.get("model_type")
        if not isinstance(value, str) or not value:
            raise _invalid("model_type", "is missing")
        return value

    def nested(self, field: str) -> "ConfigReader | None":
        """The object under `field`, when there is one."""
        value = self._config.get(field)
        return ConfigReader(value) if isinstance(value, Mapping) else None

    def with_defaults(self, defaults: Mapping[str, Any]) -> "ConfigReader":
        """The same object, with values for what it leaves out."""
        return ConfigReader({**defaults, **self._config})

    def positive(self, *fields: str, default: int | None = None, most: int = LARGEST_DIMENSION) -> int:
        """The first of `fields` that is set, as a whole number from 1 to `most`."""
        field, value = self._first(fields)
        if value is None:
            if default is None:
                raise _invalid(field, "is missing")
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise _invalid(field, f"is {value!r}; it must be a whole number from 1 to {most:,}")
        return value

    def check_numbers(self) -> None:
        """What no count depends on, but every forward pass: with nonsense in it nothing can be learnt."""
        for field in _EPSILONS:
            self.cap(field, default=None)
        self.cap("rope_theta", default=None)
        for field in _ROPE:
            value = self._config.get(field)
            if value is not None and not isinstance(value, Mapping):
                raise _invalid(field, f"is {value!r}; it must be an object or null")
            for part in _parts(value or {}):
                ConfigReader(part).cap("rope_theta", default=None)

    def token(self, field: str, *, below: int) -> None:
        """The number of a token that has an embedding, where the field is set; -1 means none to old configs."""
        value = self._config.get(field)
        if isinstance(value, int) and value >= below:
            raise _invalid(field, f"is {value:,}, but there are {below:,} tokens only")

    def flag(self, field: str, *, default: bool) -> bool:
        """A yes or no; null and absence mean the family's default."""
        value = self._config.get(field)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise _invalid(field, f"is {value!r}; it must be true or false")
        return value

    def word(self, field: str, *, default: str) -> str:
        """A name, such as that of an activation function."""
        value = self._config.get(field) or default
        if not isinstance(value, str):
            raise _invalid(field, f"is {value!r}; it must be a name")
        return value

    def cap(self, field: str, *, default: float | None) -> float | None:
        """A positive bound; null takes it away, absence means the family's default."""
        value = self._config.get(field, default)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise _invalid(field, f"is {value!r}; it must be a positive number or null")
        return float(value)

    def indices(self, field: str) -> tuple[int, ...]:
        """A list of layer numbers, empty when absent."""
        value = self._config.get(field) or []
        if not isinstance(value, list) or not all(isinstance(entry, int) and entry >= 0 for entry in value):
            raise _invalid(field, f"is {value!r}; it must be a list of layer numbers")
        return tuple(value)

    def _first(self, fields: tuple[str, ...]) -> tuple[str, Any]:
        for field in fields:
            value = self._config.get(field)
            if value is not None:
                return field, value
        return fields[0], None


def divisible(reader: ConfigReader, *, field: str, value: int, by_field: str, by: int) -> int:
    """`value / by`, exact.

    Raises:
        InvalidRequest: there is a remainder.
    """
    if value % by:
        raise _invalid(field, f"of a {reader.model_type} is {value:,}, which {by_field} ({by:,}) does not divide")
    return value // by


def even(*, field: str, value: int) -> int:
    """The same, of what is rotated in pairs.

    Raises:
        InvalidRequest: it is odd.
    """
    if value % 2:
        raise _invalid(field, f"is {value:,}; positions are told by rotation in pairs, so it must be even")
    return value


def as_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as strict JSON has it: an infinite number, which state-space models have, as transformers writes it.

    Raises:
        InvalidRequest: a number in it is none (NaN).
    """
    return {key: _as_json(value, field=str(key)) for key, value in config.items()}


def _as_json(value: Any, *, field: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_json(entry, field=f"{field}.{key}") for key, entry in value.items()}
    if isinstance(value, list):
        return [_as_json(entry, field=field) for entry in value]
    if not isinstance(value, float) or math.isfinite(value):
        return value
    if math.isnan(value):
        raise _invalid(field, "is NaN, which is no number")
    return {"__float__": "Infinity" if value > 0 else "-Infinity"}


def _parts(rope: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """One set of settings, or one for each kind of layer."""
    return [rope, *(part for part in rope.values() if isinstance(part, Mapping))]


def _invalid(field: str, problem: str) -> InvalidRequest:
    return InvalidRequest(
        f"The model's config: {field} {problem}.",
        code=ErrorCode.INVALID_MODEL_CONFIG,
        param=f"config.{field}",
        hint=_ORIGINAL,
    )
