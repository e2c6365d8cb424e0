"""Lists, one page at a time or whole, and what a deletion answers."""

from collections.abc import Sequence
from typing import Generic, Literal, Self, TypeVar

from tunesmith.tuning.api.base import Answer


class Named(Answer):
    """Something with an id, which the next page of a list can start behind."""

    id: str
    """Its identifier."""


Item = TypeVar("Item", bound=Answer)
NamedItem = TypeVar("NamedItem", bound=Named)


class Listing(Answer, Generic[Item]):
    """A list that has no pages."""

    object: Literal["list"] = "list"
    """Always `list`."""
    data: list[Item]
    """The items."""


class Page(Answer, Generic[NamedItem]):
    """One page of a list."""

    object: Literal["list"] = "list"
    """Always `list`."""
    data: list[NamedItem]
    """The items of this page."""
    has_more: bool
    """Whether there is another page: ask again with `after` set to `last_id`."""
    first_id: str | None
    """Id of the first item; null where there is none."""
    last_id: str | None
    """Id of the last item; null where there is none."""

    @classmethod
    def of(cls, items: Sequence[NamedItem], *, limit: int) -> Self:
        """Build a page from up to `limit + 1` items: the extra one only says that there is more."""
        shown = list(items[:limit])
        return cls(
            data=shown,
            has_more=len(items) > limit,
            first_id=shown[0].id if shown else None,
            last_id=shown[-1].id if shown else None,
        )


class Deleted(Answer):
    """Something is gone."""

    id: str
    """What was deleted."""
    object: Literal["file", "model", "alias", "schedule", "checkpoint.permission"]
    """What kind of thing it was."""
    deleted: Literal[True] = True
    """Always true: what cannot be deleted is an error."""
