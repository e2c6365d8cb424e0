"""What is asked all the time looks into an index, however many jobs have ended."""

from typing import Any

import psycopg
import pytest
from sqlalchemy import event

from tests.control_plane import ControlPlane

# On disk when it returns: VACUUM marks no page as visible to all whose commit might still be lost.
_MANY_JOBS = """
SET synchronous_commit = on;
INSERT INTO jobs SELECT (jsonb_populate_record(job, jsonb_build_object(
    'id', 'ftjob-' || lpad(to_hex(number), 32, '0'), 'state', 'cancelled', 'finished_at', now()))).*
FROM jobs job, generate_series(1, 3000) number
"""


def statement_of(plane: ControlPlane, path: str, *, telling: str) -> tuple[str, Any]:
    """The query that a request makes, and its parameters."""
    told: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        told.append((statement, parameters))

    engine = plane.app.state.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    assert plane.request("GET", path, key="admin").is_success
    event.remove(engine, "before_cursor_execute", note)
    (found,) = [one for one in told if telling in one[0]]
    return found


@pytest.mark.parametrize(
    ("path", "telling", "index"),
    [
        ("/metrics", "GROUP BY jobs.state", "ix_jobs_state"),
        ("/v1/evaluations", "ORDER BY jobs.id DESC", "ix_jobs_evaluations"),
    ],
)
def test_thousands_of_ended_jobs_are_not_read(control_plane: ControlPlane, path: str, telling: str, index: str) -> None:
    control_plane.create_job()
    control_plane.sql(_MANY_JOBS)
    control_plane.sql("VACUUM ANALYZE jobs")
    statement, parameters = statement_of(control_plane, path, telling=telling)
    with psycopg.connect(control_plane.settings.database_url) as connection:
        plan = "\n".join(row[0] for row in connection.execute(f"EXPLAIN {statement}", parameters))  # type: ignore[arg-type]
    assert index in plan
    assert "Seq Scan" not in plan
    assert "Sort" not in plan
