"""What keeping stored bytes costs: `python -m benchmarks.kept_bytes`, on a PostgreSQL of its own.

Twice a day the keeper puts off the end of every blob that a row refers to, 10,000 in each of its passes. Here a tenth
of them belongs to files and the others, six by six, to checkpoints; half their time is over for all of them.
"""

import asyncio
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psycopg

from benchmarks.machine import setting
from tunesmith.local.embedded.postgres import PostgresServer
from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.blobs.sweep import sweep
from tunesmith.service.database import migrate
from tunesmith.service.database.transactions import Database, create_engine

_MIB = 1024**2
_COUNTS = (10_000, 100_000)
_FILES_OF_A_CHECKPOINT = 6

_FILL = """
TRUNCATE blobs, files, api_keys, jobs, attempts, checkpoints, workers CASCADE;
INSERT INTO blobs (sha256, bytes, kept_until)
SELECT encode(sha256(n::text::bytea), 'hex'), 1, now() + interval '6 hours' FROM generate_series(0, {count} - 1) n;
INSERT INTO files (id, project, purpose, filename, bytes, blob_sha256, status)
SELECT 'f' || n, 'p', 'fine-tune', 'f', 1, encode(sha256(n::text::bytea), 'hex'), 'processed'
FROM generate_series(0, {of_files} - 1) n;
INSERT INTO api_keys (id, name, role, project, key_sha256, hint) VALUES ('k', 'k', 'member', 'p', 'k', 'k');
INSERT INTO workers (id, incarnation, hostname, version, worker_class, hardware, hardware_now, slots)
VALUES ('w', 'i', 'h', '0', 'c', '{{}}', '{{}}', 1);
INSERT INTO jobs (id, project, api_key_id, request_sha256, state, spec, dataset, training_file, max_attempts)
VALUES ('j', 'p', 'k', 'h', 'queued', '{{}}', '{{}}', 'f0', 4);
INSERT INTO attempts (id, job_id, epoch, worker_id, incarnation, worker_class, lease_token_sha256, lease_expires_at,
                      phase, plan)
VALUES ('a', 'j', 1, 'w', 'i', 'c', 't', now(), 'training', '{{}}');
INSERT INTO checkpoints (id, job_id, attempt_id, step, manifest_sha256, files, metrics)
SELECT 'c' || n / {each}, 'j', 'a', n / {each}, 'm',
       jsonb_agg(jsonb_build_object('name', 'f' || n % {each}, 'sha256', encode(sha256(n::text::bytea), 'hex'),
                                    'bytes', 1)), '{{}}'
FROM generate_series({of_files}, {count} - 1) n GROUP BY n / {each}
"""


class Cost(NamedTuple):
    """Of keeping all blobs for another day."""

    passes: int
    longest_pass_seconds: float
    seconds: float
    wal_bytes: int


def main() -> None:
    """Print a row for each number of blobs."""
    print(setting("sqlalchemy", "psycopg"))
    with tempfile.TemporaryDirectory() as folder, PostgresServer(Path(folder), log=Path(folder) / "log") as server:
        url = server.url()
        migrate.upgrade(url)
        print("| blobs | passes | longest, s | all, s | WAL, MiB |\n|---|---|---|---|---|")
        for count in _COUNTS:
            _fill(url, count)
            server.stop()  # a checkpoint, as there is between two rounds of half a day
            server.start()
            cost = asyncio.run(_keep_all(url, count))
            print(
                f"| {count:,} | {cost.passes} | {cost.longest_pass_seconds:.1f} | {cost.seconds:.1f} "
                f"| {cost.wal_bytes / _MIB:.0f} |",
                flush=True,
            )


def _fill(url: str, count: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_FILL.format(count=count, of_files=count // 10, each=_FILES_OF_A_CHECKPOINT))
        connection.execute("VACUUM ANALYZE")


async def _keep_all(url: str, count: int) -> Cost:
    database = Database(create_engine(url, pool_size=1, pool_wait_seconds=5))
    blobs = BlobStore.from_url("memory:///")
    passes: list[float] = []
    with psycopg.connect(url, autocommit=True) as connection:
        before = _wal_bytes(connection)
        while _kept(connection) < count:
            started = time.perf_counter()
            await sweep(database, blobs)
            passes.append(time.perf_counter() - started)
        written = _wal_bytes(connection) - before
    await database.close()
    return Cost(len(passes), max(passes), sum(passes), written)


def _kept(connection: psycopg.Connection) -> int:
    return _number(connection, "SELECT count(*) FROM blobs WHERE kept_until > now() + interval '20 hours'")


def _wal_bytes(connection: psycopg.Connection) -> int:
    return _number(connection, "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")


def _number(connection: psycopg.Connection, question: str) -> int:
    row = connection.execute(question).fetchone()
    return int(row[0]) if row else 0


if __name__ == "__main__":
    main()
