"""The calls that measure models on rows."""

import uuid
from typing import TYPE_CHECKING
from urllib.parse import quote

from tunesmith.cli.client.transport import Transport
from tunesmith.tuning.values.json_objects import Json

if TYPE_CHECKING:
    from tunesmith.tuning.api.comparisons.evaluations import EvaluatedRowObject, EvaluationObject


class EvaluationCalls(Transport):
    """Create evaluations and read what they found."""

    def create_evaluation(self, body: Json) -> "EvaluationObject":
        """Measure a model on rows."""
        from tunesmith.tuning.api.comparisons.evaluations import EvaluationObject

        headers = {"Idempotency-Key": uuid.uuid4().hex}
        return self.ask(EvaluationObject, "POST", "/evaluations", json=body, headers=headers, is_repeatable=True)

    def evaluation(self, evaluation_id: str) -> "EvaluationObject":
        """The evaluation as it is now."""
        from tunesmith.tuning.api.comparisons.evaluations import EvaluationObject

        return self.ask(EvaluationObject, "GET", f"/evaluations/{quote(evaluation_id, safe='')}")

    def evaluated_rows(self, evaluation_id: str, *, order: str, limit: int) -> "list[EvaluatedRowObject]":
        """The first rows, by `line` or the `worst` first."""
        from tunesmith.tuning.api.comparisons.evaluations import EvaluatedRowPage

        path = f"/evaluations/{quote(evaluation_id, safe='')}/rows"
        return self.ask(EvaluatedRowPage, "GET", path, params={"order": order, "limit": limit}).data

    def evaluation_report(self, evaluation_id: str) -> str:
        """All of it as a page."""
        return self.send("GET", f"/evaluations/{quote(evaluation_id, safe='')}/report").text
