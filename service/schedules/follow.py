"""Waiting for news of a firing."""

from collections.abc import Mapping, Sequence

from tunesmith.service.database.transactions import Database
from tunesmith.service.database.watch import Places, Watch
from tunesmith.service.schedules import store
from tunesmith.service.schedules.views import firing_object
from tunesmith.tuning.api.nightly.schedules import FiringObject
from tunesmith.tuning.words import UNDECIDED, UNDER_WAY

FiringWatch = Watch[str, FiringObject]


def firing_watch(database: Database, places: Places) -> FiringWatch:
    """Of firings, by their ids."""

    async def ask(firing_ids: Sequence[str]) -> Mapping[str, FiringObject]:
        async with database.transaction() as session:
            return {firing.id: firing_object(firing) for firing in await store.find_by_ids(session, firing_ids)}

    return Watch(ask, places)


def may_change(firing: FiringObject) -> bool:
    """Whether there is anything to wait for."""
    return firing.state in UNDECIDED or firing.state in UNDER_WAY
