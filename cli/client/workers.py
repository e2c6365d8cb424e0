"""The call about workers."""

from tunesmith.cli.client.transport import Transport
from tunesmith.tuning.api.workers import WorkerList, WorkerObject


class WorkerCalls(Transport):
    """Who works for the service."""

    def workers(self) -> list[WorkerObject]:
        """Live workers with their hardware."""
        return self.ask(WorkerList, "GET", "/workers").data
