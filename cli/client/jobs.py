"""The calls that create jobs, find them and change what becomes of them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tunesmith.cli.client.transport import Transport, job_path
from tunesmith.tuning.api.jobs import JobObject, JobPage, JobWaiting
from tunesmith.tuning.values.json_objects import Json, present

if TYPE_CHECKING:
    from tunesmith.tuning.api.comparisons.reproductions import ReproductionObject


class JobCalls(Transport):
    """Create jobs, look at them, act on them, repeat them."""

    def create_job(self, body: Json, *, idempotency_key: str) -> JobObject:
        """Create a job once, however often the request has to be sent."""
        headers = {"Idempotency-Key": idempotency_key}
        return self.ask(JobObject, "POST", "/fine_tuning/jobs", json=body, headers=headers, is_repeatable=True)

    def list_jobs(
        self, *, limit: int = 20, after: str | None = None, labels: Mapping[str, str] | None = None
    ) -> JobPage:
        """One page, newest first, of those jobs that have all of these labels."""
        wanted = {f"metadata[{name}]": value for name, value in (labels or {}).items()}
        return self.ask(JobPage, "GET", "/fine_tuning/jobs", params=present(limit=limit, after=after, **wanted))

    def job(self, job_id: str) -> JobObject:
        """The job as it is now."""
        return self.ask(JobObject, "GET", job_path(job_id))

    def waiting(self, job_id: str) -> JobWaiting:
        """Why a job has not started, who comes first, and when it is expected to start."""
        return self.ask(JobWaiting, "GET", f"{job_path(job_id)}/waiting")

    def act_on_job(self, job_id: str, action: str) -> JobObject:
        """`cancel`, `pause` or `resume`; returns the job."""
        return self.ask(JobObject, "POST", f"{job_path(job_id)}/{action}")

    def reproduce(self, job_id: str, *, idempotency_key: str) -> JobObject:
        """Create a job that repeats another one exactly, once, however often the request has to be sent."""
        headers = {"Idempotency-Key": idempotency_key}
        path = f"{job_path(job_id)}/reproduce"
        return self.ask(JobObject, "POST", path, headers=headers, is_repeatable=True)

    def reproduction(self, job_id: str) -> "ReproductionObject":
        """Whether a job that repeats another gave the same result."""
        from tunesmith.tuning.api.comparisons.reproductions import (
            ReproductionObject,  # slow to import: it brings the planner
        )

        return self.ask(ReproductionObject, "GET", f"{job_path(job_id)}/reproduction")
