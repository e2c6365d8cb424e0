"""The dropout that a model's own settings ask for: off while it is tuned, and back in the settings of the result.

The planner has a dropout of its own, on adapters. Fused passes and packed attention have none, and published settings
(GPT-2's 0.1 among them) are those of pre-training.
"""

from typing import Any

from transformers import PretrainedConfig


def model_dropouts(config: PretrainedConfig) -> dict[str, float]:
    """Every dropout above zero of a configuration, and of the text part of one with several parts, by its name."""
    return {name: value for part in _parts(config) for name, value in vars(part).items() if _is_dropout(name, value)}


def without_dropout(config: PretrainedConfig) -> PretrainedConfig:
    """The same configuration object with all of them at zero."""
    for part in _parts(config):
        for name, value in vars(part).items():
            if _is_dropout(name, value):
                setattr(part, name, 0.0)
    return config


def restore_dropout(config: PretrainedConfig, original: PretrainedConfig) -> None:
    """Put the values of the original back, for the settings of a result."""
    for part, before in zip(_parts(config), _parts(original), strict=True):
        for name, value in vars(before).items():
            if _is_dropout(name, value):
                setattr(part, name, value)


def _parts(config: PretrainedConfig) -> list[PretrainedConfig]:
    text = config.get_text_config()
    return [config] if text is config else [config, text]


def _is_dropout(name: str, value: Any) -> bool:
    is_number = isinstance(value, float | int) and not isinstance(value, bool)
    return is_number and value > 0 and ("drop" in name or name.endswith("pdrop"))
