"""Reads the database, and nothing else, for what must hold at every moment and at the end of a history."""

from collections import Counter
from collections.abc import Collection
from typing import Any

import psycopg

from tests.simulation.users import Promises
from tunesmith.service.metrics.points import merge
from tunesmith.tuning.state import FINAL_STATES, TRANSITIONS, JobState, Outcome

Rows = list[tuple[Any, ...]]
Facts = dict[str, Any]  # columns of a row
_EDGES = {(before.value, after.value) for (before, _), after in TRANSITIONS.items()}
_FINAL = {state.value for state in FINAL_STATES}
_MAY_LOSE = 10  # workers, by the settings that nobody set
_MAY_KILL = 3  # trainers
_ONLY_GROW = ("epoch", "event_seq", "version")

_JOBS = "SELECT id, state, epoch, event_seq, version FROM jobs ORDER BY id"
_ENDED = """
    SELECT a.id, a.outcome, a.step, a.phase,
      (SELECT count(*) FROM metric_chunks c WHERE c.attempt_id = a.id),
      (SELECT sum(end_offset) FROM metric_chunks c WHERE c.attempt_id = a.id),
      (SELECT string_agg(files::text, ' ' ORDER BY kind) FROM artifacts f WHERE f.attempt_id = a.id)
    FROM attempts a WHERE ended_at IS NOT NULL
"""
_CHECKPOINTS = "SELECT id, attempt_id FROM checkpoints"
_OWNERS = """
    SELECT j.id FROM jobs j WHERE (state = 'running') <>
      EXISTS (SELECT FROM attempts a WHERE a.job_id = j.id AND a.ended_at IS NULL AND a.epoch = j.epoch)
    OR (SELECT count(*) FROM attempts a WHERE a.job_id = j.id AND a.ended_at IS NULL) > 1
"""
# One question rather than four: a history has hundreds of looks.
_LOOK = "SELECT " + ", ".join(
    f"ARRAY(SELECT to_jsonb(r) FROM ({query}) r)" for query in (_OWNERS, _JOBS, _ENDED, _CHECKPOINTS)
)
_EVENT_GAPS = """
    SELECT j.id FROM jobs j LEFT JOIN events e ON e.job_id = j.id GROUP BY j.id
    HAVING count(e.seq) <> j.event_seq OR max(e.seq) <> j.event_seq OR min(e.seq) <> 1
"""
_NOT_TOLD_ONCE = """
    SELECT j.id FROM jobs j WHERE (j.finished_at IS NOT NULL)::int <> (
      SELECT count(*) FROM outbox o WHERE topic = 'event' AND payload -> 'event' -> 'data' ->> 'id' = j.id
        AND payload -> 'event' ->> 'type' = 'fine_tuning.job.' || j.state)
"""
_ENDS = "SELECT id, state, waiting_reason, fine_tuned_model, plan FROM jobs"
_BUDGETS = "SELECT id, state, epoch, attempts_used, max_attempts, attempts_lost, attempts_preempted FROM jobs"
_ATTEMPTS = "SELECT job_id, epoch, id, outcome, failure ->> 'code' FROM attempts ORDER BY job_id, epoch"
_POINTS = "SELECT epoch, points FROM metric_chunks WHERE job_id = %s ORDER BY epoch, start_offset"
_STEPS_TOLD = "SELECT data ->> 'step' FROM events WHERE job_id = %s AND type = 'metrics'"
_TOLD = """
    SELECT j.n, e.seq, e.type, e.created_at, e.message FROM events e
    JOIN (SELECT id, row_number() OVER (ORDER BY id) AS n FROM jobs) j ON j.id = e.job_id ORDER BY j.n, e.seq
"""
_MADE = """
    SELECT m.name, m.files = a.files FROM models m LEFT JOIN artifacts a ON a.attempt_id = %s AND a.kind = m.kind
    WHERE m.job_id = %s
"""


def _may_become(before: Facts, now: Facts) -> bool:
    """By one edge of the table; or by several where an attempt has begun since, for a short job runs between looks."""
    state, state_now = before["state"], now["state"]
    if state == state_now or (state, state_now) in _EDGES:
        return True
    return bool(now["epoch"] > before["epoch"] and (state, "running") in _EDGES and ("running", state_now) in _EDGES)


class Auditor:
    """`look` compares with the look before; `audit` is for when everything has come to rest."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection
        self._jobs: dict[str, Facts] = {}
        self._ended: dict[str, Facts] = {}
        self._checkpoints: Collection[str] = ()

    def look(self) -> None:
        ((odd, jobs, ended, checkpoints),) = self.ask(_LOOK)
        assert odd == [], "a running job without its one owner, or an owner without a running job"
        self._look_at_jobs({row.pop("id"): row for row in jobs})
        owners = {row["id"]: row["attempt_id"] for row in checkpoints}
        self._look_at_attempts({row.pop("id"): row for row in ended}, owners)

    def audit(self, promises: Promises) -> None:
        ends = {row[0]: row[1:] for row in self.ask(_ENDS)}
        assert promises.accepted <= set(ends), "a job that was accepted is gone"
        assert all(len(jobs) == 1 for jobs in promises.by_key.values()), "two jobs for one key"
        self.audit_events()
        for job_id, (state, reason, *_) in ends.items():
            assert state in _FINAL or reason, f"{job_id} is {state} and nobody says why"
        for job_id in promises.cancelled:
            assert ends[job_id][0] == JobState.CANCELLED, f"{job_id} was cancelled and is {ends[job_id][0]}"
        self._audit_attempts()
        for job_id, (state, _, model, plan) in ends.items():
            if state == JobState.SUCCEEDED:
                self._audit_success(job_id, model=model, total_steps=plan["total_steps"])

    def audit_events(self) -> None:
        assert self.ask(_EVENT_GAPS) == [], "the history has a gap"
        assert self.ask(_NOT_TOLD_ONCE) == [], "an ending is not among the webhook events, or twice"

    def unfinished(self) -> dict[str, str]:
        """States of the jobs that have yet to end."""
        return {job_id: state for job_id, state, *_ in self.ask(_JOBS) if state not in _FINAL}

    def count(self) -> "Counter[str]":
        """What the histories were made of, so that nobody tests nothing."""
        counts = Counter(f"job {state}" for _, state, *_ in self.ask(_JOBS))
        return counts + Counter(f"attempt {outcome}" for *_, outcome, _ in self.ask(_ATTEMPTS))

    def told(self) -> list[str]:
        """Every job's history as users read it."""
        return [" ".join(map(str, row)) for row in self.ask(_TOLD)]

    def _look_at_jobs(self, jobs: dict[str, Facts]) -> None:
        for job_id, now in jobs.items():
            before = self._jobs.get(job_id)
            if before is None:
                continue
            if before["state"] in _FINAL:
                assert before == now, f"{job_id} had ended: {before}, {now}"
            assert _may_become(before, now), f"{job_id}: from {before} to {now}"
            assert all(before[name] <= now[name] for name in _ONLY_GROW), f"{job_id}: {before}, {now}"
        self._jobs |= jobs

    def _look_at_attempts(self, ended: dict[str, Facts], checkpoints: dict[str, str]) -> None:
        """Whoever has lost a job, or ended it, has written his last."""
        for attempt_id, before in self._ended.items():
            now = ended.get(attempt_id)
            assert before == now, f"{attempt_id} wrote after its end: {before}, {now}"
        late = {owner for name, owner in checkpoints.items() if name not in self._checkpoints} & self._ended.keys()
        assert not late, f"{late} registered a checkpoint after its end"
        self._ended, self._checkpoints = ended, checkpoints.keys()

    def _audit_attempts(self) -> None:
        attempts: dict[str, Rows] = {}
        for job_id, *attempt in self.ask(_ATTEMPTS):
            attempts.setdefault(job_id, []).append(tuple(attempt))
        for job_id, state, epoch, used, most, lost, preempted in self.ask(_BUDGETS):
            tried = attempts.get(job_id, [])
            outcomes = Counter(outcome for _, _, outcome, _ in tried)
            assert [number for number, *_ in tried] == list(range(1, epoch + 1)), f"{job_id}: {tried}"
            assert (lost, preempted) == (outcomes[Outcome.LOST], outcomes[Outcome.PREEMPTED]), f"{job_id}: {tried}"
            failed = used - (state == JobState.SUCCEEDED)  # the attempt that succeeds stays counted
            assert outcomes[Outcome.FAILED] == failed <= most, f"{job_id}: {tried}"
            assert lost <= _MAY_LOSE, f"{job_id}: {tried}"
            assert sum(code == "trainer_killed" for *_, code in tried) <= _MAY_KILL, f"{job_id}: {tried}"

    def _audit_success(self, job_id: str, *, model: str, total_steps: int) -> None:
        """One winner, whose bytes are the model's, and each step of the training once."""
        winners = self.ask("SELECT id FROM attempts WHERE job_id = %s AND outcome = 'succeeded'", job_id)
        assert len(winners) == 1, f"{job_id} was won by {winners}"
        assert self.ask(_MADE, winners[0][0], job_id) == [(model, True)], f"{job_id} has another's model"
        shipped = [(epoch, point) for epoch, chunk in self.ask(_POINTS, job_id) for point in chunk]
        of_attempts = Counter((epoch, point["step"]) for epoch, point in shipped)
        assert set(of_attempts.values()) == {1}, f"{job_id}: an attempt has a step twice: {of_attempts}"
        points = [point for point in merge(shipped) if point["step"] > 0]  # 0 is the evaluation before the first
        assert [point["step"] for point in points] == list(range(1, total_steps + 1)), f"{job_id}: {points}"
        told = Counter(step for (step,) in self.ask(_STEPS_TOLD, job_id))
        assert told.keys() - {"0"} == {str(step) for step in range(1, total_steps + 1)}, f"{job_id}: {told}"
        assert set(told.values()) == {1}, f"{job_id} told a step twice: {told}"

    def ask(self, query: str, *values: object) -> Rows:
        return self.connection.execute(query, values or None).fetchall()
