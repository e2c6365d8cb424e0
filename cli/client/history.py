"""The calls that tell how a job goes: events, metrics, sample answers."""

from tunesmith.cli.client.transport import Transport, job_path
from tunesmith.tuning.api.base import recorded
from tunesmith.tuning.api.history import EventObject, EventPage, TrackedRunList, TrackedRunObject
from tunesmith.tuning.api.metrics import MetricPoint, MetricPointList, SampleList, SampleObject
from tunesmith.tuning.values.json_objects import present


class HistoryCalls(Transport):
    """What a job has told so far."""

    def events_since(self, job_id: str, *, seen: frozenset[str] = frozenset()) -> list[EventObject]:
        """The events that are not in `seen`, oldest first. Pages back from the newest until it meets a known one."""
        fresh: list[EventObject] = []
        after: str | None = None
        while True:
            page = self.ask(EventPage, "GET", f"{job_path(job_id)}/events", params=present(limit=100, after=after))
            fresh += [event for event in page.data if event.id not in seen]
            if not page.has_more or not page.data or any(event.id in seen for event in page.data):
                return fresh[::-1]
            after = page.data[-1].id

    def tracked_runs(self, job_id: str) -> list[TrackedRunObject]:
        """Where trackers show the job's runs, oldest first."""
        return self.ask(TrackedRunList, "GET", f"{job_path(job_id)}/trackers").data

    def metrics(self, job_id: str, *, after_step: int | None = None) -> list[MetricPoint]:
        """Metric points in the order of steps."""
        path = f"{job_path(job_id)}/metrics"
        answer = self.ask(MetricPointList, "GET", path, params=present(after_step=after_step))
        return [recorded(MetricPoint, point) for point in answer.data]

    def samples(self, job_id: str) -> list[SampleObject]:
        """Held-out prompts with the model's answers at each evaluation."""
        return self.ask(SampleList, "GET", f"{job_path(job_id)}/samples").data
