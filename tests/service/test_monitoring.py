"""`GET /metrics` in the words of Prometheus: what it says is what the service did, and its labels stay few."""

from prometheus_client.parser import text_string_to_metric_families

from tests.control_plane import ControlPlane
from tests.machines import CPU, ONE_GPU
from tests.service.nightly.nights import Nights
from tests.service.planning.test_plans import run_once

Sample = tuple[str, tuple[tuple[str, str], ...]]


def scrape(plane: ControlPlane) -> dict[Sample, float]:
    """Every sample by name and labels, as Prometheus reads them."""
    response = plane.request("GET", "/metrics", key="admin")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(response.text))
    assert all(family.documentation for family in families)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def labelled(name: str, **labels: str) -> Sample:
    return name, tuple(sorted(labels.items()))


def test_only_an_administrator_may_read_it(control_plane: ControlPlane) -> None:
    for key in ("member", "worker"):
        assert control_plane.request("GET", "/metrics", key=key).status_code == 403


def test_an_empty_service_has_all_states_and_no_errors(control_plane: ControlPlane) -> None:
    found = scrape(control_plane)
    assert found[labelled("tunesmith_jobs", state="queued")] == 0
    assert found[labelled("tunesmith_jobs", state="succeeded")] == 0
    assert found[labelled("tunesmith_queue_oldest_wait_seconds")] == 0
    assert not any("error" in name for name, _ in found)


def test_jobs_workers_and_waiting_are_counted(control_plane: ControlPlane) -> None:
    control_plane.claimed()
    control_plane.worker("gpu", hardware=ONE_GPU).beat(busy_slots=1)
    control_plane.create_job()
    control_plane.sql(
        "UPDATE jobs SET queued_at = queued_at - interval '1 hour', not_before = not_before - '1h'::interval"
    )
    found = scrape(control_plane)
    assert found[labelled("tunesmith_jobs", state="running")] == 1
    assert found[labelled("tunesmith_jobs", state="queued")] == 1
    assert found[labelled("tunesmith_workers", worker_class=ONE_GPU.worker_class, doing="busy")] == 1
    assert 3600 <= found[labelled("tunesmith_queue_oldest_wait_seconds")] < 3700
    assert found[labelled("tunesmith_queue_starts")] == 1
    assert 3600 <= found[labelled("tunesmith_queue_wait_seconds", quantile="0.5")] < 3700


def test_the_error_of_predictions_is_that_of_the_newest_runs(control_plane: ControlPlane) -> None:
    method = run_once(control_plane, memory=1.25, speed=0.5).claim.plan.method
    run_once(control_plane, memory=1.0, speed=1.0)
    run_once(control_plane, memory=1.5, speed=0.8)
    found = scrape(control_plane)
    kind = {"worker_class": CPU.worker_class, "method": method.value}
    assert abs(found[labelled("tunesmith_prediction_memory_error_ratio", **kind)] - 0.25) < 0.01
    assert abs(found[labelled("tunesmith_prediction_time_error_ratio", **kind)] - 0.25) < 0.01
    assert found[labelled("tunesmith_prediction_runs", **kind)] == 3


def test_no_label_names_a_job_a_project_or_a_model(control_plane: ControlPlane) -> None:
    attempt = run_once(control_plane)
    text = control_plane.request("GET", "/metrics", key="admin").text
    assert not any(name in text for name in (attempt.job_id, "tiny-llama", "acme"))


def test_schedules_that_are_late_and_what_became_of_due_times_are_counted(control_plane: ControlPlane) -> None:
    nights = Nights(control_plane)
    nights.upload()
    nights.create(name="one")
    nights.create(name="two", job={"model": "tiny-llama", "suffix": "two"})
    nights.create(name="paused")
    assert nights.post("/v1/schedules/paused/pause").status_code == 200
    nights.next_night(name="one")
    control_plane.sql("UPDATE firings SET due_at = now() - interval '1 hour'")
    running = scrape(control_plane)
    assert running[labelled("tunesmith_schedules", state="active")] == 2
    assert running[labelled("tunesmith_schedules", state="paused")] == 1
    assert running[labelled("tunesmith_firings_open", state="submitted")] == 2
    assert running[labelled("tunesmith_schedules_late")] == 0
    nights.train()
    nights.train()
    control_plane.sql("UPDATE schedules SET next_fires_at = now() - interval '10 minutes' WHERE name = 'one'")
    later = scrape(control_plane)
    assert later[labelled("tunesmith_firings_open", state="submitted")] == 0
    assert later[labelled("tunesmith_firings_of_a_day", state="trained")] == 2
    assert later[labelled("tunesmith_firings_of_a_day", state="skipped")] == 0
    assert later[labelled("tunesmith_schedules_late")] == 1
    assert 600 <= later[labelled("tunesmith_schedules_lateness_seconds")] < 700
