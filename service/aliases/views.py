"""Aliases and their changes as the API shows them."""

from tunesmith.service.database.tables import Alias, AliasChange
from tunesmith.tuning.api.nightly.aliases import AliasChangeObject, AliasObject


def alias_object(alias: Alias) -> AliasObject:
    """An alias, which stands for a model."""
    return AliasObject(
        id=alias.name, model=str(alias.model), changes=alias.changes, updated_at=int(alias.updated_at.timestamp())
    )


def change_object(changed: AliasChange, *, key_name: str) -> AliasChangeObject:
    """A line of an alias's history, with the name of the key that made the change."""
    return AliasChangeObject(
        number=changed.number,
        action=changed.action,
        model=changed.model,
        previous_model=changed.previous_model,
        reason=changed.reason,
        by=key_name,
        firing_id=changed.firing_id,
        created_at=int(changed.created_at.timestamp()),
    )
