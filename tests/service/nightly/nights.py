"""Schedules whose clock a test moves: what keepers do at a moment, without waiting for it."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
from sqlalchemy.ext.asyncio import AsyncSession

from tests.control_plane import AttemptSide, ControlPlane, WorkerSide, chat_rows
from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.database.transactions import Database
from tunesmith.service.schedules.context import Clock, ScheduleContext
from tunesmith.service.schedules.decide import decide_all
from tunesmith.service.schedules.judging.gate import judge_all
from tunesmith.service.schedules.judging.settle import settle_all
from tunesmith.service.schedules.record_due import record_due
from tunesmith.service.schedules.retention.old_results import delete_old_results
from tunesmith.service.settings import Settings

PROD = "ft:support@prod"


def stopped_at(moment: datetime) -> Clock:
    """A clock that shows this."""

    async def clock(_session: AsyncSession) -> datetime:
        return moment

    return clock


@dataclass
class Nights:
    """A control plane, the time that its keepers see, and one worker."""

    plane: ControlPlane
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    settings: Settings = field(init=False)
    _began_at: datetime = field(init=False)
    _worker: WorkerSide | None = None

    def __post_init__(self) -> None:
        self.settings = self.plane.settings
        self._began_at = self.at

    def create(self, **fields: Any) -> dict[str, Any]:
        """A schedule for every night, of the newest `rows.jsonl`."""
        response = self.post("/v1/schedules", self.body(**fields))
        assert response.status_code == 200, response.text
        return dict(response.json())

    def body(self, **fields: Any) -> dict[str, Any]:
        """Due half a day from when the test began, for the API and the database see the real time."""
        return {
            "name": "nightly",
            "cron": f"0 {(self._began_at.hour + 12) % 24} * * *",
            "data": {"filename": "rows.jsonl"},
            "job": {"model": "tiny-llama"},
            **fields,
        }

    def settings_body(self, **fields: Any) -> dict[str, Any]:
        """The same without the name."""
        return {key: value for key, value in self.body(**fields).items() if key != "name"}

    def replace(self, *, name: str = "nightly", **fields: Any) -> None:
        """Other settings for a schedule. Its next due time is after those that the moved clock has seen."""
        answer = self.plane.request("PUT", f"/v1/schedules/{name}", json=self.settings_body(**fields))
        assert answer.status_code == 200, answer.text
        later = "SET next_due_at = next_due_at + interval '1 day', next_fires_at = next_fires_at + interval '1 day'"
        while self.plane.sql(
            f"UPDATE schedules {later} WHERE name = %s AND next_due_at <= %s RETURNING id", name, self.at
        ):
            pass

    def post(self, path: str, body: Any = None, **options: Any) -> httpx2.Response:
        return self.plane.request("POST", path, json=body if body is not None else {}, **options)

    def get(self, path: str) -> Any:
        response = self.plane.request("GET", path)
        assert response.status_code == 200, response.text
        return response.json()

    def schedule(self, name: str = "nightly") -> dict[str, Any]:
        return dict(self.get(f"/v1/schedules/{name}"))

    def firings(self, name: str = "nightly") -> list[dict[str, Any]]:
        """The history, oldest first."""
        return list(self.get(f"/v1/schedules/{name}/firings?limit=1000")["data"][::-1])

    def upload(self, rows: int = 20) -> str:
        """Tonight's `rows.jsonl`."""
        return self.plane.upload(chat_rows(rows))

    def next_night(self, *, late_by: timedelta = timedelta(seconds=2), name: str = "nightly") -> dict[str, Any]:
        """Move the clock to the next due time and let a keeper sweep; returns the newest firing."""
        ((fires_at,),) = self.plane.sql("SELECT next_fires_at FROM schedules WHERE name = %s", name)
        self.at = max(self.at, fires_at) + late_by
        self.sweep()
        return self.firings(name)[-1]

    def sweep(self, *, after: timedelta = timedelta(0)) -> None:
        """What a keeper does each time."""
        self.at += after

        async def work(database: Database) -> None:
            context = self.context(database)
            await record_due(context)
            await settle_all(context)
            await judge_all(context)
            await decide_all(context)

        self.plane.run(work)

    def delete_old_results(self) -> int:
        return self.plane.run(lambda database: delete_old_results(self.context(database)))

    def context(self, database: Database) -> ScheduleContext:
        blobs = BlobStore.from_url(self.plane.settings.store)
        return ScheduleContext(self.settings, database, blobs, clock=stopped_at(self.at), draw_seed=lambda: 7)

    def claim(self) -> AttemptSide:
        """The worker takes the job that is next."""
        self._worker = self._worker or self.plane.worker()
        attempt = self._worker.claim()
        assert attempt is not None, "no job waits"
        return attempt

    def train(self) -> str:
        """The worker does the job that is next; returns the model's name."""
        attempt = self.claim()
        attempt.succeed()
        self.sweep()
        return str(self.plane.job(attempt.job_id)["fine_tuned_model"])

    def alias(self) -> str | None:
        found = {alias["id"]: alias["model"] for alias in self.get("/v1/aliases")["data"]}
        return found.get(PROD)

    def verdict(self, firing: dict[str, Any], verdict: str, **fields: Any) -> httpx2.Response:
        path = f"/v1/schedules/{firing['schedule_id']}/firings/{firing['id']}/verdict"
        return self.post(path, {"verdict": verdict, **fields})
