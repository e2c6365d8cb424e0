"""A cancel and a success of one job at the same moment: exactly one of the two is what happened."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import httpx2
import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from tests.control_plane import AttemptSide, ControlPlane
from tunesmith.service.app import create_app
from tunesmith.service.database.ids import new_id
from tunesmith.tuning.messages import FinishReport
from tunesmith.tuning.state import Outcome

AT_ONCE = 4  # races: each has two requests under way, on cores that other tests share
STEP = 1.25  # by which a head start grows or shrinks
COPY = """
    INSERT INTO {table} SELECT copy.* FROM {table} original, jsonb_populate_record(original, %s) copy
    WHERE original.id = %s
"""


@dataclass(frozen=True)
class Race:
    """A running job with its result registered, to be cancelled and finished."""

    job_id: str
    attempt_id: str
    lease_token: str


class HeadStart:
    """What the finish gets before the cancel: more when it came too late, less when it was in time.

    So it stays about where the order of their statements is open, however fast the machine is.
    """

    seconds = 0.02

    def learn(self, *, is_cancelled: bool) -> None:
        self.seconds *= STEP if is_cancelled else 1 / STEP


@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_races_of_cancel_and_finish_end_in_exactly_one_of_the_two(control_plane: ControlPlane, count: int) -> None:
    races = copies(control_plane, control_plane.claimed(), count)
    answers = asyncio.run(run_all(control_plane, races))

    assert {finished for _, finished in answers} == {204}
    states = dict(control_plane.sql("SELECT id, state FROM jobs"))
    ends = Counter((cancelled, states[race.job_id]) for race, (cancelled, _) in zip(races, answers, strict=True))
    print(dict(ends))
    assert set(ends) == {(200, "cancelled"), (400, "succeeded")}, ends
    made = control_plane.sql("SELECT job_id FROM models WHERE job_id IS NOT NULL")
    assert sorted(job for (job,) in made) == sorted(job for job, state in states.items() if state == "succeeded")


def copies(plane: ControlPlane, attempt: AttemptSide, count: int) -> list[Race]:
    """So many races from the rows of one job, which are far quicker to copy than to come by."""
    assert attempt.artifact().status_code == 204
    (artifact_id,) = plane.sql("SELECT id FROM artifacts")[0]
    races = [Race(new_id("ftjob"), new_id("attempt"), attempt.claim.lease_token) for _ in range(count)]
    with psycopg.connect(plane.settings.database_url) as connection:
        connection.execute("SET session_replication_role = replica")  # triggers know jobs that begin at their beginning
        for race in races:
            copy(connection, "jobs", attempt.job_id, id=race.job_id)
            owned = {"job_id": race.job_id, "claim_id": None}
            copy(connection, "attempts", attempt.claim.attempt_id, id=race.attempt_id, **owned)
            result = {"job_id": race.job_id, "attempt_id": race.attempt_id}
            copy(connection, "artifacts", artifact_id, id=new_id("artifact"), **result)
    return races


async def run_all(plane: ControlPlane, races: Sequence[Race]) -> list[tuple[int, int]]:
    """The statuses of each race's two answers, in order, from an API in this process."""
    app = create_app(plane.settings)
    transport = httpx2.ASGITransport(app)
    room, head_start = asyncio.Semaphore(AT_ONCE), HeadStart()
    async with httpx2.AsyncClient(transport=transport, base_url="http://here", verify=False, timeout=60) as client:

        async def run(race: Race) -> tuple[int, int]:
            async with room:
                return await run_one(client, race, head_start, key=plane.keys["member"])

        answers = await asyncio.gather(*map(run, races))
    await app.state.database.close()
    return answers


async def run_one(client: httpx2.AsyncClient, race: Race, head_start: HeadStart, *, key: str) -> tuple[int, int]:
    """The statuses of the cancel and of the finish."""
    report = FinishReport(outcome=Outcome.SUCCEEDED, trained_tokens=1234, result={"steps": 96})
    path = f"/internal/attempts/{race.attempt_id}/finish"
    finishing = asyncio.create_task(
        client.post(path, headers=bearer(race.lease_token), content=report.model_dump_json())
    )
    await asyncio.sleep(head_start.seconds)
    cancelled = await client.post(f"/v1/fine_tuning/jobs/{race.job_id}/cancel", headers=bearer(key))
    head_start.learn(is_cancelled=cancelled.status_code == 200)
    return cancelled.status_code, (await finishing).status_code


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def copy(connection: psycopg.Connection, table: str, row_id: str, **changes: str | None) -> None:
    """The same row once more, with some of its columns changed."""
    statement = sql.SQL(COPY).format(table=sql.Identifier(table))
    connection.execute(statement, [Jsonb(changes), row_id])
