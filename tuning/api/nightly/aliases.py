"""Names that stand for models."""

from typing import Literal

from tunesmith.tuning.api.base import Answer
from tunesmith.tuning.api.lists import Listing, Named
from tunesmith.tuning.words import AliasAction


class AliasObject(Named):
    """A name that stands for a model."""

    id: str
    """The alias, as in `ft:support@prod`."""
    object: Literal["tunesmith.alias"] = "tunesmith.alias"
    """Always `tunesmith.alias`."""
    model: str
    """The model that it stands for."""
    changes: int
    """How often it has changed, its first setting among them."""
    updated_at: int
    """When it changed last, in Unix seconds."""


class AliasChangeObject(Answer):
    """One change of an alias."""

    object: Literal["tunesmith.alias.change"] = "tunesmith.alias.change"
    """Always `tunesmith.alias.change`."""
    number: int
    """1 for the first change of the alias."""
    action: AliasAction
    """`set`, also for a promotion; `roll_back`; or `delete`."""
    model: str | None
    """What it stood for from then on; null for nothing."""
    previous_model: str | None
    """What it stood for until then; null for nothing."""
    reason: str | None
    """What its author gave as the reason."""
    by: str
    """The name of the key that did it."""
    firing_id: str | None
    """The firing of a schedule that did it; null when a person or a pipeline did."""
    created_at: int
    """When, in Unix seconds."""


class AliasList(Listing[AliasObject]):
    """The project's aliases, by name."""


class AliasChangeList(Listing[AliasChangeObject]):
    """Changes of one alias, newest first."""
