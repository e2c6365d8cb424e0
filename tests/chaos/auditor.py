"""Reads database and store, and nothing else, for what must hold while a cluster is disturbed and afterwards."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg

from tests.simulation.auditor import Auditor
from tests.simulation.users import Promises

_NOT_ENDED_RIGHT = """
    SELECT id, state, failure ->> 'code', failure ->> 'message' FROM jobs WHERE state NOT IN ('succeeded', 'cancelled')
"""
_OPEN_ATTEMPTS = "SELECT id FROM attempts WHERE ended_at IS NULL"
_FILES = """
    SELECT DISTINCT file ->> 'sha256', (file ->> 'bytes')::bigint
    FROM (SELECT files FROM artifacts UNION ALL SELECT files FROM checkpoints) one, jsonb_array_elements(one.files) file
"""
_KEYS = "SELECT key, job_id FROM idempotency_keys"
_WEIGHTS = """
    SELECT j.id, file ->> 'sha256' FROM jobs j JOIN attempts a ON a.job_id = j.id AND a.outcome = 'succeeded'
    JOIN artifacts f ON f.attempt_id = a.id AND f.kind = 'adapter', jsonb_array_elements(f.files) file
    WHERE j.state = 'succeeded' AND file ->> 'name' = 'adapter_model.safetensors'
"""
_UNRECORDED = """
    SELECT id FROM api_keys k WHERE NOT EXISTS (
      SELECT FROM audit_entries e WHERE e.action = 'key.created' AND e.subject = k.id)
    UNION ALL SELECT name FROM models m WHERE job_id IS NULL AND NOT EXISTS (
      SELECT FROM audit_entries e WHERE e.action = 'model.registered' AND e.subject = m.name)
"""
_OUTCOMES = "SELECT outcome, count(*) FROM attempts GROUP BY outcome"
_STATES = "SELECT state, count(*) FROM jobs GROUP BY state"


class ClusterAuditor:
    """`look` often, and `audit` once everything has come to rest."""

    def __init__(self, database_url: str, *, store: Path) -> None:
        self.looks = 0
        self._url = database_url
        self._store = store
        with psycopg.connect(database_url) as connection:
            self._rows = Auditor(connection)

    def look(self) -> None:
        """Compare with the look before, if there is a server to ask: states, owners, that the ended stays as it was."""
        try:
            with psycopg.connect(self._url, connect_timeout=5) as connection:
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                self._rows.connection = connection
                self._rows.look()
        except psycopg.OperationalError:
            return
        self.looks += 1

    def audit(self, promises: Promises, *, weights: str) -> None:
        """All promises that rows and bytes can show; `weights` is the hash that an undisturbed run had."""
        self.look()
        with psycopg.connect(self._url) as connection:
            self._rows.connection = connection
            assert self._ask(_NOT_ENDED_RIGHT) == [], "a job neither succeeded nor was cancelled"
            assert self._ask(_OPEN_ATTEMPTS) == [], "an attempt is still open"
            self._rows.audit(promises)
            known = dict(self._ask(_KEYS))
            assert {key: {known[key]} for key in promises.by_key} == promises.by_key, "a key was told another job"
            assert self._ask(_UNRECORDED) == [], "what an administrator did is not on record"
            assert {sha256 for _, sha256 in self._ask(_WEIGHTS)} <= {weights}, "a disturbed run has other weights"
            self._audit_bytes()

    def counts(self) -> dict[str, Counter[str]]:
        """Jobs by state and attempts by outcome."""
        with psycopg.connect(self._url) as connection:
            self._rows.connection = connection
            return {"jobs": Counter(dict(self._ask(_STATES))), "attempts": Counter(dict(self._ask(_OUTCOMES)))}

    def weights_of(self, job_id: str) -> str:
        """The hash of a job's adapter."""
        with psycopg.connect(self._url) as connection:
            self._rows.connection = connection
            return str(dict(self._ask(_WEIGHTS))[job_id])

    def _audit_bytes(self) -> None:
        """Every file of a result or checkpoint is in the store, whole: its name is its hash."""
        stored = {path.name: path for path in self._store.rglob("*") if path.is_file()}
        for sha256, size in self._ask(_FILES):
            assert sha256 in stored, f"{sha256} is registered and not stored"
            content = stored[sha256].read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (size, sha256), f"{sha256} is damaged"

    def _ask(self, query: str) -> list[tuple[Any, ...]]:
        return self._rows.ask(query)
