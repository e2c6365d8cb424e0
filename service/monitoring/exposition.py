"""The counts as Prometheus text. Labels hold worker classes, methods and states only: no job, project or model name."""

from collections.abc import Iterable, Iterator
from statistics import median

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tunesmith.service.leases.lease_time import Hold, LeaseTime
from tunesmith.service.monitoring.store import Nightly, Observations, Waits
from tunesmith.service.planning.accuracy import Measured, memory_error, time_error
from tunesmith.tuning.estimates.measured import LATEST_RUNS

_MOST_CLASSES = 50  # a fleet of more kinds is told about those seen last
_Key = tuple[str, str]


def exposition(seen: Observations) -> bytes:
    """Everything in text format 0.0.4."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(seen))
    return generate_latest(registry)


class _Snapshot(Collector):
    def __init__(self, seen: Observations) -> None:
        self._seen = seen

    def collect(self) -> Iterator[Metric]:
        """One family after another."""
        jobs = GaugeMetricFamily("tunesmith_jobs", "Jobs by state.", labels=["state"])
        for state, number in self._seen.jobs.items():
            jobs.add_metric([state], number)
        yield jobs
        workers = GaugeMetricFamily("tunesmith_workers", "Live workers.", labels=["worker_class", "doing"])
        for (worker_class, doing), number in sorted(self._seen.workers.items())[: 3 * _MOST_CLASSES]:
            workers.add_metric([worker_class, doing], number)
        yield workers
        yield from _waiting(self._seen.waits)
        yield from _leases(self._seen.leases)
        yield from _inference(self._seen)
        yield from _nightly(self._seen.nightly)
        yield from _errors(self._seen.measured)


def _inference(seen: Observations) -> Iterator[Metric]:
    workers = GaugeMetricFamily("tunesmith_inference_workers", "Live inference workers.", labels=["engine", "doing"])
    for (engine, doing), number in sorted(seen.inference_workers.items())[:_MOST_CLASSES]:
        workers.add_metric([engine, doing], number)
    yield workers
    text = "Requests that live inference workers answer or have wait."
    yield GaugeMetricFamily("tunesmith_inference_open_requests", text, seen.inference_requests)
    yield CounterMetricFamily("tunesmith_inference_requests", "Answers of models, so far.", seen.used.requests)
    tokens = CounterMetricFamily("tunesmith_inference_tokens", "Tokens of prompts and answers.", labels=["kind"])
    tokens.add_metric(["prompt"], seen.used.prompt_tokens)
    tokens.add_metric(["completion"], seen.used.completion_tokens)
    yield tokens


def _nightly(seen: Nightly) -> Iterator[GaugeMetricFamily]:
    schedules = GaugeMetricFamily("tunesmith_schedules", "Schedules by whether they fire.", labels=["state"])
    schedules.add_metric(["active"], seen.active)
    schedules.add_metric(["paused"], seen.paused)
    yield schedules
    yield GaugeMetricFamily(
        "tunesmith_schedules_late", "Schedules whose due time nobody has recorded for a minute.", seen.late
    )
    text = "How long the due time that has waited longest for a keeper has waited."
    yield GaugeMetricFamily("tunesmith_schedules_lateness_seconds", text, seen.lateness_seconds)
    for name, text, counts in (
        ("tunesmith_firings_open", "Due times that are being worked on, by state.", seen.open),
        ("tunesmith_firings_of_a_day", "Due times of the last 24 hours that have ended, by state.", seen.of_a_day),
    ):
        firings = GaugeMetricFamily(name, text, labels=["state"])
        for state, number in counts.items():
            firings.add_metric([state], number)
        yield firings


def _waiting(waits: Waits) -> Iterator[GaugeMetricFamily]:
    yield GaugeMetricFamily(
        "tunesmith_queue_oldest_wait_seconds", "How long the job that has waited longest has waited.", waits.oldest
    )
    name = "tunesmith_queue_wait_seconds"
    wait = GaugeMetricFamily(name, "Wait of the jobs that first started within an hour.", labels=["quantile"])
    for quantile, seconds in (("0.5", waits.median), ("0.95", waits.ninety_fifth)):
        if seconds is not None:
            wait.add_metric([quantile], seconds)
    yield wait
    yield GaugeMetricFamily("tunesmith_queue_starts", "Jobs that first started within an hour.", waits.starts)


def _leases(leases: LeaseTime) -> Iterator[GaugeMetricFamily]:
    yield GaugeMetricFamily("tunesmith_leases_overdue", "Open attempts whose lease has run out.", leases.overdue)
    text = "1 while leases that have run out are not ended, because their workers may have been unable to renew them."
    held = GaugeMetricFamily("tunesmith_leases_held", text, labels=["because"])
    for hold in Hold:
        held.add_metric([hold.value], float(leases.hold is hold))
    yield held


def _errors(measured: Iterable[Measured]) -> Iterator[GaugeMetricFamily]:
    """Medians of the newest runs of a class and method, whatever their model and kernels."""
    groups: dict[_Key, list[Measured]] = {}
    for one in measured:
        key = (one.worker_class, one.run.method.value)
        group = groups.setdefault(key, []) if len(groups) < 3 * _MOST_CLASSES else groups.get(key, [])
        if not one.run.is_canary and len(group) < LATEST_RUNS:
            group.append(one)
    labels = ["worker_class", "method"]
    families = {
        "memory": (memory_error, "Peak memory measured over predicted, less one; median of the newest runs."),
        "time": (time_error, "Time taken over predicted, less one; median of the newest runs."),
    }
    for quantity, (error, text) in families.items():
        family = GaugeMetricFamily(f"tunesmith_prediction_{quantity}_error_ratio", text, labels=labels)
        for key, group in sorted(groups.items()):
            known = [value for one in group if (value := error(one.run)) is not None]
            if known:
                family.add_metric(list(key), median(known))
        yield family
    runs = GaugeMetricFamily("tunesmith_prediction_runs", "Runs that the errors rest on.", labels=labels)
    for key, group in sorted(groups.items()):
        runs.add_metric(list(key), len(group))
    yield runs
