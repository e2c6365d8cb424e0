"""Waiting for news of an evaluation."""

from collections.abc import Mapping, Sequence

from tunesmith.service.database.transactions import Database
from tunesmith.service.database.watch import Places, Watch
from tunesmith.service.evaluations import store
from tunesmith.service.evaluations.views import evaluation_object
from tunesmith.tuning.api.comparisons.evaluations import EvaluationObject

EvaluationWatch = Watch[str, EvaluationObject]


def evaluation_watch(database: Database, places: Places) -> EvaluationWatch:
    """Of evaluations, by their ids."""

    async def ask(evaluation_ids: Sequence[str]) -> Mapping[str, EvaluationObject]:
        async with database.transaction() as session:
            return {job.id: evaluation_object(job) for job in await store.find_by_ids(session, evaluation_ids)}

    return Watch(ask, places)
