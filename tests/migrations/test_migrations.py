"""The schema in the database is the schema in the code, in both directions, and it is the referee."""

import itertools
import threading
from collections.abc import Callable

import psycopg
import pytest

from tunesmith.service.database import migrate
from tunesmith.tuning.state import FINAL_STATES, TRANSITIONS, JobState

_SEED = """
INSERT INTO api_keys (id, name, role, project, key_sha256, hint) VALUES ('k', 'k', 'member', 'p', 'x', 'x');
INSERT INTO blobs (sha256, bytes) VALUES ('b', 1);
INSERT INTO files (id, project, purpose, filename, bytes, blob_sha256, status)
VALUES ('f', 'p', 'fine-tune', 'f', 1, 'b', 'processed');
INSERT INTO workers (id, incarnation, hostname, version, worker_class, hardware, hardware_now, slots)
VALUES ('w', 'i', 'h', '0', 'c', '{}', '{}', 1);
"""
_JOB = """
INSERT INTO jobs (id, project, api_key_id, request_sha256, state, spec, dataset, training_file, max_attempts,
                  finished_at, failure, fine_tuned_model)
VALUES (%(id)s, 'p', 'k', 'h', %(state)s, '{}', '{}', 'f', 4,
        CASE WHEN %(final)s THEN now() END,
        CASE WHEN %(state)s = 'failed' THEN '{}'::jsonb END,
        CASE WHEN %(state)s = 'succeeded' THEN 'm' END)
"""
_MOVE = """
UPDATE jobs SET state = %(state)s, finished_at = CASE WHEN %(final)s THEN now() END,
                failure = CASE WHEN %(state)s = 'failed' THEN '{}'::jsonb END,
                fine_tuned_model = CASE WHEN %(state)s = 'succeeded' THEN 'm' END
WHERE id = %(id)s
"""


@pytest.fixture
def connection(new_database_url: Callable[[], str]) -> psycopg.Connection:
    connection = psycopg.connect(new_database_url(), autocommit=True)
    connection.execute(_SEED)  # type: ignore[call-overload]
    yield connection
    connection.close()


def insert_job(connection: psycopg.Connection, job_id: str, state: JobState) -> None:
    connection.execute(_JOB, {"id": job_id, "state": state.value, "final": state in FINAL_STATES})


def can_move(connection: psycopg.Connection, before: JobState, after: JobState) -> bool:
    job_id = f"{before}-{after}"
    insert_job(connection, job_id, before)
    try:
        connection.execute(_MOVE, {"id": job_id, "state": after.value, "final": after in FINAL_STATES})
    except psycopg.errors.CheckViolation:
        return False
    return True


def test_upgrade_leaves_nothing_to_generate_and_downgrade_leaves_nothing(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url)
    migrate.check(empty_database_url)
    migrate.downgrade(empty_database_url, "base")
    with psycopg.connect(empty_database_url) as connection:
        left = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE 'alembic%'"
            " UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        ).fetchall()
    assert left == []
    migrate.upgrade(empty_database_url)


def test_a_database_of_a_later_version_is_left_alone_and_told_so(fresh_database_url: str) -> None:
    with psycopg.connect(fresh_database_url, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0999'")
        with pytest.raises(migrate.SchemaIsNewer, match=r"\(0999\) is newer than this program") as refusal:
            migrate.upgrade(fresh_database_url)
        assert "install the version" in (refusal.value.hint or "")
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("0999",)]


def test_two_migrations_at_once_are_safe(empty_database_url: str) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            migrate.upgrade(empty_database_url)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    migrate.check(empty_database_url)


def test_the_database_allows_exactly_the_transitions_of_the_table(connection: psycopg.Connection) -> None:
    allowed = {(before, after) for (before, _), after in TRANSITIONS.items()}
    for before, after in itertools.permutations(JobState, 2):
        assert can_move(connection, before, after) == ((before, after) in allowed), (before, after)


@pytest.mark.parametrize("state", sorted(FINAL_STATES))
def test_a_finished_job_never_changes(connection: psycopg.Connection, state: JobState) -> None:
    insert_job(connection, "j", state)
    for change in (
        "event_seq = event_seq + 1",
        "finished_at = now() + interval '1 s'",
        "epoch = epoch + 1",
        "result_files = '[1]'",
    ):
        with pytest.raises(psycopg.errors.CheckViolation, match="never changes"):
            connection.execute(f"UPDATE jobs SET {change} WHERE id = 'j'")  # type: ignore[call-overload]
    connection.execute("UPDATE jobs SET labels = '{\"kept\": \"for search\"}' WHERE id = 'j'")


def test_a_job_has_one_open_attempt_at_most_and_an_ended_one_never_changes(connection: psycopg.Connection) -> None:
    insert_job(connection, "j", JobState.RUNNING)
    insert = (
        "INSERT INTO attempts (id, job_id, epoch, worker_id, incarnation, worker_class, lease_token_sha256,"
        " lease_expires_at, phase, plan) VALUES (%s, 'j', %s, 'w', 'i', 'c', 't', now(), 'claimed', '{}')"
    )
    connection.execute(insert, ("a1", 1))
    with pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute(insert, ("a2", 2))
    connection.execute("UPDATE attempts SET ended_at = now(), outcome = 'lost' WHERE id = 'a1'")
    connection.execute(insert, ("a2", 2))
    with pytest.raises(psycopg.errors.CheckViolation, match="never changes"):
        connection.execute("UPDATE attempts SET lease_expires_at = now() WHERE id = 'a1'")


@pytest.mark.parametrize(
    "broken",
    [
        "finished_at = now()",
        "attempts_used = 5",
        "attempts_used = -1",
        "failure = '{}'",
        "fine_tuned_model = 'm'",
        "state = 'lost'",
    ],
)
def test_rows_that_contradict_themselves_are_refused(connection: psycopg.Connection, broken: str) -> None:
    insert_job(connection, "j", JobState.QUEUED)
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(f"UPDATE jobs SET {broken} WHERE id = 'j'")  # type: ignore[call-overload]


def test_every_change_counts_the_version_up(connection: psycopg.Connection) -> None:
    insert_job(connection, "j", JobState.QUEUED)
    connection.execute("UPDATE jobs SET priority = 1, version = 99 WHERE id = 'j'")
    assert connection.execute("SELECT version FROM jobs").fetchone() == (2,)
