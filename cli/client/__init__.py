"""The service's REST API as Python calls: one method per route, by what they are about.

`Transport` is what they stand on: one error shape, patience with a service that restarts.
"""

from tunesmith.cli.client.chat import ChatCalls
from tunesmith.cli.client.errors import ServiceError, Unreachable
from tunesmith.cli.client.evaluations import EvaluationCalls
from tunesmith.cli.client.files import FileCalls
from tunesmith.cli.client.history import HistoryCalls
from tunesmith.cli.client.jobs import JobCalls
from tunesmith.cli.client.models import ModelCalls
from tunesmith.cli.client.plans import PlanCalls
from tunesmith.cli.client.results import ResultCalls
from tunesmith.cli.client.workers import WorkerCalls

__all__ = ["Client", "ServiceError", "Unreachable"]


class Client(
    FileCalls,
    PlanCalls,
    JobCalls,
    HistoryCalls,
    ResultCalls,
    EvaluationCalls,
    ModelCalls,
    ChatCalls,
    WorkerCalls,
):
    """Calls of one service, as any key may make them."""
