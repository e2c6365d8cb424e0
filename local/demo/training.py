"""The demo's job: created through the `openai` package exactly as a user would, then followed to its end."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.cli.client import Client
from tunesmith.cli.connection import Connection
from tunesmith.cli.follow import Followed, View, follow
from tunesmith.cli.rendering.job_text import describe_plan, plan_of
from tunesmith.local.demo.dataset import SYSTEM_PROMPT
from tunesmith.tuning.api.jobs import JobObject
from tunesmith.tuning.api.metrics import MetricPoint
from tunesmith.tuning.errors import InvalidRequest, InvalidTrainingFile
from tunesmith.tuning.state import FINAL_STATES
from tunesmith.tuning.values.json_objects import Json

if TYPE_CHECKING:
    from openai import OpenAI

SEED = 20
_MOST_RETRIES = 8


@dataclass(frozen=True)
class Losses:
    """Validation loss of the untrained model (step 0) and at the last evaluation."""

    before: float
    after: float

    @property
    def fell(self) -> bool:
        """Whether training helped on rows it has never seen."""
        return self.after < self.before


def require_openai() -> None:
    """Raises InvalidRequest: with how to get the package, before anything is started."""
    try:
        import openai  # noqa: F401
    except ModuleNotFoundError as error:
        raise InvalidRequest(
            "The demo talks to the service through the `openai` package, which is not installed.",
            hint="pip install 'tunesmith[demo]', or `make setup`, which installs it",
        ) from error


def openai_client(connection: Connection) -> "OpenAI":
    """The unmodified client. It asks again for as long as a model may take to come after a job."""
    from openai import OpenAI

    return OpenAI(base_url=connection.base_url, api_key=connection.api_key, max_retries=_MOST_RETRIES)


def create_job(
    connection: Connection,
    *,
    model: str,
    training_file: Path,
    validation_file: Path,
    hyperparameters: Json,
    options: Json,
) -> str:
    """Upload both files and create the job with nothing but the `openai` client; returns the job's id."""
    client = openai_client(connection)
    uploaded = []
    for path in (training_file, validation_file):
        file = client.files.create(file=path, purpose="fine-tune")
        if file.status == "error":
            raise InvalidTrainingFile(f"{path.name}: {file.status_details}")
        uploaded.append(file.id)
    job = client.fine_tuning.jobs.create(
        model=model,
        training_file=uploaded[0],
        validation_file=uploaded[1],
        suffix="docstrings",
        seed=SEED,
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},  # type: ignore[arg-type]
        metadata={"made_by": "tunesmith demo", "task": SYSTEM_PROMPT[:60]},
        extra_body={"tunesmith": options},
    )
    return job.id


def follow_job(client: Client, job_id: str, *, view: View) -> Followed:
    """Follow the job to its end, and print the plan with its reasons as soon as there is one."""
    return follow(client, job_id, view=_PlanFirst(view))


def losses(points: list[MetricPoint]) -> Losses | None:
    """First and last validation loss, None when there are not two."""
    measured = [point.valid_loss for point in points if point.valid_loss is not None]
    return Losses(before=measured[0], after=measured[-1]) if len(measured) > 1 else None


def cancel_unfinished(client: Client) -> int:
    """Cancel what an interrupted demo left behind: it would share the machine with this one."""
    left = [job for job in client.list_jobs(limit=100).data if job.status not in FINAL_STATES]
    for job in left:
        client.act_on_job(job.id, "cancel")
    return len(left)


class _PlanFirst:
    """A view that tells the plan once, then shows the job."""

    def __init__(self, view: View) -> None:
        self._view, self._told = view, False
        self.waiting, self.event, self.point, self.line, self.lost, self.found = (
            view.waiting,
            view.event,
            view.point,
            view.line,
            view.lost,
            view.found,
        )

    def job(self, job: JobObject) -> None:
        plan = None if self._told else plan_of(job)
        if plan:
            self._told = True
            for line in describe_plan(plan):
                self.line(line)
        self._view.job(job)
