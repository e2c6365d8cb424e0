"""The calls that ask what would run, and how true such answers were."""

from tunesmith.cli.client.transport import Transport
from tunesmith.tuning.api.accuracy import AccuracyList
from tunesmith.tuning.api.plans import PlanAnswer
from tunesmith.tuning.values.json_objects import Json


class PlanCalls(Transport):
    """Ask for plans without creating jobs."""

    def plan(self, body: Json) -> PlanAnswer:
        """What each class of worker would do with a job; makes none."""
        return self.ask(PlanAnswer, "POST", "/fine_tuning/plans", json=body, is_repeatable=True)

    def plan_accuracy(self, *, limit: int = 100) -> AccuracyList:
        """Predicted beside measured for finished runs, newest first, and the current errors by kind."""
        return self.ask(AccuracyList, "GET", "/fine_tuning/plans/accuracy", params={"limit": limit})
