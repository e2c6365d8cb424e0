"""Waiting for an alias to be changed."""

from collections.abc import Mapping, Sequence

from tunesmith.service.aliases import store
from tunesmith.service.aliases.views import alias_object
from tunesmith.service.database.transactions import Database
from tunesmith.service.database.watch import Places, Watch
from tunesmith.tuning.api.nightly.aliases import AliasObject

ProjectAndName = tuple[str, str]
AliasWatch = Watch[ProjectAndName, AliasObject]


def alias_watch(database: Database, places: Places) -> AliasWatch:
    """Of aliases that stand for a model, by project and name."""

    async def ask(keys: Sequence[ProjectAndName]) -> Mapping[ProjectAndName, AliasObject]:
        async with database.transaction() as session:
            found = await store.find_by_keys(session, keys)
            return {(alias.project, alias.name): alias_object(alias) for alias in found}

    return Watch(ask, places)
