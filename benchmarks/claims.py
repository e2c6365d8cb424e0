"""How long a claim takes with many jobs in line: `python -m benchmarks.claims`, on a PostgreSQL of its own.

Jobs are rows that were copied by SQL, a tenth in each of ten projects. Each claim is rolled back, so that all find the
same line.
"""

import asyncio
import json
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import psycopg

from benchmarks.machine import setting
from tunesmith.local.embedded.postgres import PostgresServer
from tunesmith.service.attempts.claim import LeaseTerms, claim
from tunesmith.service.database import migrate
from tunesmith.service.database.transactions import Database, create_engine
from tunesmith.service.projects.limits import Allowances
from tunesmith.service.settings import Settings
from tunesmith.tuning.hardware import Cpu, HardwareProfile
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.messages import ClaimRequest
from tunesmith.tuning.values.hashes import sha256_of_text
from tunesmith.tuning.values.units import GIB

_WORKER = HardwareProfile(
    cpu=Cpu(model="any", cores=2, memory_total_bytes=16 * GIB, memory_free_bytes=12 * GIB),
    installed={"torch": "2.13.0"},
)
_SHAPE = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32_000}
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_MODELS = {"small": (64, 128, 2, 4), "large": (8192, 28_672, 80, 64)}
_FACTS = DatasetFacts(
    rows=1000, tokens=100_000, longest_row_tokens=200, supervised_tokens=50_000, tokens_are_exact=True
)
_LINES = (("small", True, "that fit"), ("large", True, "alike that fit nothing"), ("large", False, "different ones"))
_UNLIMITED = Allowances(Settings(database_url="postgresql:///none", store="memory:///"), {}, frozenset())
_COUNTS = (10, 1000, 10_000)
_ROUNDS = 7

_PREPARE = """
INSERT INTO api_keys (id, name, role, project, key_sha256, hint) VALUES ('k', 'k', 'member', 'p', 'k', 'k');
INSERT INTO blobs (sha256, bytes) VALUES (repeat('b', 64), 1);
INSERT INTO files (id, project, purpose, filename, bytes, blob_sha256, status)
VALUES ('f', 'p', 'fine-tune', 'f', 1, repeat('b', 64), 'processed');
INSERT INTO workers (id, incarnation, hostname, version, worker_class, hardware, hardware_now, slots)
VALUES ('w', 'i', 'h', '0', 'c', '{}', '{}', 1);
"""
_FILL = """
INSERT INTO jobs (id, project, api_key_id, request_sha256, state, spec, dataset, training_file, max_attempts,
                  queued_at, question_sha256)
SELECT 'j' || n, 'p' || n %% 10, 'k', 'h', 'queued',
       CASE WHEN %(alike)s THEN %(spec)s::jsonb
            ELSE jsonb_set(%(spec)s::jsonb, '{learning_rate}', to_jsonb(n / 1e7)) END,
       %(facts)s::jsonb, 'f', 4, now() - n * interval '1 second',
       CASE WHEN %(alike)s THEN 'alike ' || %(model)s::text ELSE 'question ' || n END
FROM generate_series(1, %(count)s) n
"""


def main() -> None:
    """Print a row for each length of the line and each kind of job in it."""
    print(setting("sqlalchemy", "psycopg"))
    with tempfile.TemporaryDirectory() as folder, PostgresServer(Path(folder), log=Path(folder) / "log") as server:
        url = server.url()
        migrate.upgrade(url)
        with psycopg.connect(url, autocommit=True) as connection:
            _prepare(connection)
            print("| jobs in line | first claim, ms | later ones, ms |\n|---|---|---|")
            for model, alike, name in _LINES:
                for count in _COUNTS:
                    _fill(connection, model=model, count=count, alike=alike)
                    first, *later = asyncio.run(_claims(url))
                    print(f"| {count:,} {name} | {first:.0f} | {statistics.median(later):.0f} |", flush=True)


async def _claims(url: str) -> list[float]:
    database = Database(create_engine(url, pool_size=1, pool_wait_seconds=5))
    async with database.transaction():
        pass  # connects
    milliseconds = [await _claim(database) for _ in range(_ROUNDS)]
    await database.close()
    return milliseconds


async def _claim(database: Database) -> float:
    request = ClaimRequest(worker_id="w", incarnation="i", hardware=_WORKER)
    started = time.perf_counter()
    async with database.transaction() as session:
        await claim(session, request, lineage="k", terms=LeaseTerms(60, 10, timedelta(seconds=35)), allowed=_UNLIMITED)
        await session.rollback()
    return (time.perf_counter() - started) * 1000


def _prepare(connection: psycopg.Connection) -> None:
    connection.execute(_PREPARE)
    for name, sizes in _MODELS.items():
        config = json.dumps({**_SHAPE, **dict(zip(_SIZES, sizes, strict=True))})
        connection.execute(
            "INSERT INTO models (name, kind, status, digest, config, files) VALUES (%s, 'base', 'ready', %s, %s, '[]')",
            (name, sha256_of_text(name), config),
        )


def _fill(connection: psycopg.Connection, *, model: str, count: int, alike: bool) -> None:
    values = {"spec": JobSpec(model=model, seed=0).model_dump_json(), "facts": _FACTS.model_dump_json()}
    connection.execute("DELETE FROM jobs")
    connection.execute(_FILL, {**values, "model": model, "count": count, "alike": alike})
    connection.execute("VACUUM ANALYZE jobs")


if __name__ == "__main__":
    main()
