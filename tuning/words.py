"""The words that a user chooses from. Nothing is imported, so that the command can offer them and still start quickly.

`auto` means: the planner chooses, and the plan shows the number and why.
"""

from enum import StrEnum
from typing import Literal


class Method(StrEnum):
    """How the weights are changed."""

    FULL = "full"
    LORA = "lora"
    QLORA = "qlora"


class Objective(StrEnum):
    """What is learned, by the API's own names."""

    SUPERVISED = "supervised"
    DPO = "dpo"


class Goal(StrEnum):
    """What to prefer among plans that fit."""

    BALANCED = "balanced"
    QUALITY = "quality"
    SPEED = "speed"
    COST = "cost"


class KeyRole(StrEnum):
    """What a key may do."""

    ADMIN = "admin"  # everything of its project, and what concerns the whole service
    MEMBER = "member"  # everything of its project
    READER = "reader"  # look at what is its project's
    WORKER = "worker"  # take jobs and report about them


Auto = Literal["auto"]
AutoOrMethod = Literal["auto", Method.FULL, Method.LORA, Method.QLORA]  # for typer, which takes no unions
OnDroppedContent = Literal["warn", "refuse"]  # when the chat template leaves out words of the assistant
Validation = Literal["auto", "none"]  # without a validation file: hold out a tenth of the rows, or train on all
OnLongRow = Literal["truncate", "refuse"]  # what to do with a row of more tokens than max_seq_length
