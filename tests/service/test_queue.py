"""The line: whose turn it is, what a claim passes over, what a project may have, and why a job waits."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.control_plane import TINY_CONFIG, ControlPlane, chat_rows
from tests.machines import CPU, ONE_GPU, SMALL_CPU
from tests.waiting import eventually
from tunesmith.service.attempts import claim
from tunesmith.service.attempts.choice import Chooser
from tunesmith.service.keeper.waiting_jobs import wake_for_waiting_jobs
from tunesmith.service.planning.refusals import Refusals
from tunesmith.service.queue.walk import in_turn
from tunesmith.tuning.state import Outcome
from tunesmith.tuning.values.json_objects import Json
from tunesmith.tuning.values.units import GIB

LARGE = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}


def fill(plane: ControlPlane, first: Json, *, count: int, alike: bool) -> None:
    """Queue copies of a job as rows; each asks the planner a question of its own unless they are alike."""
    question = "question_sha256" if alike else "md5(n::text)"
    rows = "spec" if alike else "jsonb_set(spec, '{learning_rate}', to_jsonb(n / 1e7))"
    plane.sql(
        f"""
        INSERT INTO jobs (id, project, api_key_id, request_sha256, state, event_seq, spec, dataset, training_file,
                          max_attempts, question_sha256, queued_at)
        SELECT id || '-' || n, project, api_key_id, request_sha256, 'queued', 0, {rows}, dataset, training_file,
               max_attempts, {question}, queued_at + n * interval '1 millisecond'
        FROM jobs, generate_series(1, %s) n WHERE id = %s
        """,
        count,
        first["id"],
    )


def add_large(plane: ControlPlane) -> str:
    return plane.add_model("large-llama", config={**TINY_CONFIG, **LARGE})


def waiting(plane: ControlPlane, job_id: str, *, key: str = "member") -> dict[str, Any]:
    response = plane.request("GET", f"/v1/fine_tuning/jobs/{job_id}/waiting", key=key)
    assert response.status_code == 200, response.text
    return dict(response.json())


def waiting_reason(plane: ControlPlane, job_id: str, *, key: str = "member") -> str | None:
    """Of the job itself, by a new look."""
    plane.app.state.line.forget()
    response = plane.request("GET", f"/v1/fine_tuning/jobs/{job_id}", key=key).raise_for_status()
    return response.json()["tunesmith"]["waiting_reason"]  # type: ignore[no-any-return]


class TestTurns:
    def test_hundreds_of_jobs_that_fit_nothing_do_not_keep_another_projects_job_from_an_idle_worker(
        self, control_plane: ControlPlane
    ) -> None:
        first = control_plane.create_job(model=add_large(control_plane))
        fill(control_plane, first, count=301, alike=False)
        tiny = control_plane.create_job(key="stranger")
        attempt = control_plane.worker().claim()
        assert attempt is not None
        assert attempt.job_id == tiny["id"]

    def test_hundreds_of_jobs_that_fit_nothing_do_not_keep_their_own_projects_job_from_an_idle_worker(
        self, control_plane: ControlPlane
    ) -> None:
        first = control_plane.create_job(model=add_large(control_plane))
        fill(control_plane, first, count=600, alike=True)
        tiny = control_plane.create_job()
        attempt = control_plane.worker().claim()
        assert attempt is not None
        assert attempt.job_id == tiny["id"]

    def test_projects_take_turns_whatever_one_of_them_has_queued(self, control_plane: ControlPlane) -> None:
        file = control_plane.upload()
        ours = [control_plane.create_job(training_file=file)["id"] for _ in range(4)]
        theirs = control_plane.upload(key="stranger")
        others = [control_plane.create_job(key="stranger", training_file=theirs)["id"] for _ in range(2)]
        attempts = [control_plane.worker(f"w{number}").claim() for number in range(6)]
        order = [attempt.job_id for attempt in attempts if attempt]
        assert order == [ours[0], others[0], ours[1], others[1], ours[2], ours[3]]

    def test_a_job_that_has_waited_long_goes_before_those_of_a_project_that_runs_nothing(
        self, control_plane: ControlPlane
    ) -> None:
        control_plane.claimed()
        old = control_plane.create_job()["id"]
        new = control_plane.create_job(key="stranger")["id"]
        positions = [control_plane.job(new, key="stranger"), control_plane.job(old)]
        assert [job["tunesmith"]["queue_position"] for job in positions] == [1, 2]
        control_plane.sql("UPDATE jobs SET queued_at = queued_at - interval '2 hours' WHERE id = %s", old)
        attempt = control_plane.worker("w2").claim()
        assert attempt is not None
        assert attempt.job_id == old

    def test_places_in_line_are_those_in_which_claims_are_made(self, control_plane: ControlPlane) -> None:
        keys = ("member", "stranger", "member", "member", "stranger")
        files = {key: control_plane.upload(key=key) for key in set(keys)}
        ids = {}
        for number, key in enumerate(keys):
            job = control_plane.create_job(key=key, training_file=files[key], tunesmith={"priority": number % 3})
            ids[job["id"]] = key
        # Not those in the jobs' answers: they are up to a second old, so two may be of different looks at the line.
        places = {job_id: waiting(control_plane, job_id, key=key)["queue_position"] for job_id, key in ids.items()}

        async def walked(database: Any) -> list[str]:
            async with database.transaction() as session:
                return [item.job_id async for item in in_turn(session, is_full=lambda *_: False)]

        assert control_plane.run(walked) == sorted(places, key=places.__getitem__)

    def test_a_walk_that_takes_too_long_ends_and_the_next_one_gets_further(self, control_plane: ControlPlane) -> None:
        first = control_plane.create_job(model=add_large(control_plane))
        fill(control_plane, first, count=30, alike=False)
        refusals = Refusals()

        async def asked(database: Any) -> int:
            async with database.transaction() as session:
                chooser = Chooser(session, CPU, refusals=refusals)
                async for item in in_turn(session, is_full=lambda *_: False):
                    assert await chooser.choose(item) is None
                return chooser.asked

        assert [control_plane.run(asked) for _ in range(2)] == [31, 0]

    def test_a_refusal_holds_for_a_little_more_memory_and_not_for_another_machine(
        self, control_plane: ControlPlane
    ) -> None:
        control_plane.create_job(model=add_large(control_plane))
        less = CPU.cpu.model_copy(update={"memory_free_bytes": CPU.cpu.memory_free_bytes - 4096})
        refusals = Refusals()

        async def asked(database: Any, hardware: Any) -> int:
            async with database.transaction() as session:
                chooser = Chooser(session, hardware, refusals=refusals)
                async for item in in_turn(session, is_full=lambda *_: False):
                    await chooser.choose(item)
                return chooser.asked

        machines = (CPU, CPU.model_copy(update={"cpu": less}), ONE_GPU)
        assert [control_plane.run(lambda d, m=machine: asked(d, m)) for machine in machines] == [1, 0, 1]

    def test_a_refusal_for_lack_of_memory_is_none_of_a_like_machine_with_a_little_more(
        self, control_plane: ControlPlane
    ) -> None:
        control_plane.create_job()
        refusals = Refusals()

        async def takes(database: Any, free_mib: int) -> bool:
            cpu = CPU.cpu.model_copy(update={"memory_total_bytes": 64 * GIB, "memory_free_bytes": free_mib * 1024**2})
            async with database.transaction() as session:
                chooser = Chooser(session, CPU.model_copy(update={"cpu": cpu}), refusals=refusals)
                chosen = [await chooser.choose(item) async for item in in_turn(session, is_full=lambda *_: False)]
                return chosen != [None]

        assert [control_plane.run(lambda d, mib=mib: takes(d, mib)) for mib in (50, 1000)] == [False, True]

    def test_a_claim_ends_its_walk_when_its_time_is_up(
        self, control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        control_plane.create_job(model=add_large(control_plane))
        fits = control_plane.create_job()["id"]
        worker = control_plane.worker()
        with monkeypatch.context() as short:
            short.setattr(claim, "_LONGEST_WALK_SECONDS", -1.0)
            assert worker.claim() is None
        attempt = worker.claim()
        assert attempt is not None
        assert attempt.job_id == fits

    def test_a_claim_with_ten_thousand_jobs_that_fit_nothing_is_bounded(self, control_plane: ControlPlane) -> None:
        fill(control_plane, control_plane.create_job(model=add_large(control_plane)), count=10_000, alike=True)
        worker = control_plane.worker()
        started = time.monotonic()
        assert worker.claim() is None
        assert time.monotonic() - started < 8  # a worker waits ten


class TestPriority:
    def test_a_member_may_go_ten_steps_and_an_admin_further(self, control_plane: ControlPlane) -> None:
        file = control_plane.upload()
        body = {"model": "tiny-llama", "training_file": file, "tunesmith": {"priority": 11}}
        refused = control_plane.request("POST", "/v1/fine_tuning/jobs", json=body).json()["error"]
        assert (refused["code"], refused["param"]) == ("priority_too_high", "tunesmith.priority")
        assert "-10 to 10, not 11" in refused["message"]
        assert control_plane.create_job(key="admin", training_file=file, tunesmith={"priority": 11})

    def test_a_waiting_job_is_moved_in_the_line(self, control_plane: ControlPlane) -> None:
        file = control_plane.upload()
        _, second = (control_plane.create_job(training_file=file)["id"] for _ in range(2))
        path = f"/v1/fine_tuning/jobs/{second}/priority"
        for _ in range(2):
            moved = control_plane.request("POST", path, json={"priority": 3}).json()["tunesmith"]
            assert (moved["priority"], moved["queue_position"]) == (3, 1)
        assert control_plane.messages(second).count("Priority changed from 0 to 3") == 1
        attempt = control_plane.worker().claim()
        assert attempt is not None
        assert attempt.job_id == second
        attempt.succeed()
        assert control_plane.request("POST", path, json={"priority": 0}).json()["error"]["code"] == "invalid_state"

    def test_a_member_changes_neither_to_nor_from_what_takes_an_admin(self, control_plane: ControlPlane) -> None:
        job_id = control_plane.create_job()["id"]
        path = f"/v1/fine_tuning/jobs/{job_id}/priority"
        assert control_plane.request("POST", path, json={"priority": -11}).status_code == 403
        assert control_plane.request("POST", path, key="admin", json={"priority": -50}).status_code == 200
        assert control_plane.request("POST", path, json={"priority": 0}).status_code == 403
        assert control_plane.request("POST", path, key="stranger", json={"priority": 0}).status_code == 404


class TestLimits:
    def test_one_more_queued_job_than_allowed_is_refused_until_one_has_left_the_line(
        self, control_plane: ControlPlane, limited: Callable[..., None]
    ) -> None:
        limited(queued_jobs=2)
        file = control_plane.upload()
        first, second = (control_plane.create_job(training_file=file)["id"] for _ in range(2))
        body = {"model": "tiny-llama", "training_file": file}
        refused = control_plane.request("POST", "/v1/fine_tuning/jobs", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_queued_jobs")
        assert refused.headers["retry-after"] == "30"
        assert control_plane.sql("SELECT count(*) FROM jobs") == [(2,)]
        control_plane.request("POST", f"/v1/fine_tuning/jobs/{first}/pause")
        assert control_plane.create_job(training_file=file)
        resumed = control_plane.request("POST", f"/v1/fine_tuning/jobs/{first}/resume")
        assert resumed.status_code == 429
        assert control_plane.job(first)["status"] == "paused"
        control_plane.request("POST", f"/v1/fine_tuning/jobs/{second}/cancel")
        assert control_plane.request("POST", f"/v1/fine_tuning/jobs/{first}/resume").status_code == 200

    def test_a_project_at_its_limit_of_running_jobs_gets_no_worker_and_is_told_why(
        self, control_plane: ControlPlane, limited: Callable[..., None]
    ) -> None:
        limited(running_jobs=1)
        file = control_plane.upload()
        attempt = control_plane.claimed(training_file=file)
        job_id = control_plane.create_job(training_file=file)["id"]
        other = control_plane.worker("w2")
        assert other.claim() is None
        reason = "The project 'acme' runs 1 job, the most that it may at a time."
        assert waiting(control_plane, job_id)["reason"] == reason
        assert waiting_reason(control_plane, job_id) == reason
        attempt.succeed()
        assert other.claim() is not None

    def test_a_file_beyond_the_bytes_that_a_project_may_store_is_refused(
        self, control_plane: ControlPlane, limited: Callable[..., None]
    ) -> None:
        limited(stored_bytes=len(chat_rows()) + 10)
        file = control_plane.upload()
        form = {"data": {"purpose": "fine-tune"}, "files": {"file": ("more", chat_rows(5))}}
        refused = control_plane.request("POST", "/v1/files", **form)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "too_many_stored_bytes")
        assert control_plane.sql("SELECT count(*) FROM files") == [(1,)]
        attempt = control_plane.claimed(training_file=file)
        attempt.checkpoint(4)
        assert attempt.artifact().status_code == 204  # what a run has made is never refused
        body = {"model": "tiny-llama", "training_file": file}
        assert control_plane.request("POST", "/v1/fine_tuning/jobs", json=body).status_code == 403


class TestWhyAJobWaits:
    def test_who_is_ahead_which_workers_fit_and_when_it_may_start(self, control_plane: ControlPlane) -> None:
        file = control_plane.upload()
        control_plane.claimed(training_file=file).heartbeat(step=1)
        jobs = [control_plane.create_job(training_file=file)["id"] for _ in range(2)]
        control_plane.create_job(key="stranger")
        answer = waiting(control_plane, jobs[1])
        assert answer["queue_position"] == 3
        assert answer["ahead"] == {"own_project": 1, "other_projects": 1}
        assert answer["reason"].startswith(
            "All workers that fit are busy (cpu-2-cores-16gib); ahead of it: 1 of its project, 1"
        )
        assert [(entry["fits"], entry["idle"]) for entry in answer["workers"]] == [(True, 0)]
        assert answer["expected_start"] > time.time() + 20  # the running attempt has 30 seconds left
        assert answer["smallest_hardware"] is None
        assert (
            control_plane.request("GET", f"/v1/fine_tuning/jobs/{jobs[1]}/waiting", key="stranger").status_code == 404
        )

    def test_where_no_worker_fits_it_names_the_hardware_that_would(self, control_plane: ControlPlane) -> None:
        control_plane.worker()
        job_id = control_plane.create_job(model=add_large(control_plane))["id"]
        answer = waiting(control_plane, job_id)
        assert answer["reason"].startswith("No connected worker fits")
        assert "GiB" in answer["workers"][0]["refusal"]
        assert (answer["expected_start"], answer["smallest_hardware"]) == (None, "1xA100-40G")
        assert control_plane.job(job_id)["tunesmith"]["waiting_reason"].startswith("cpu-2-cores-16gib: ")

    def test_a_job_that_a_worker_fits_says_which_are_busy_with_what_and_how_many_are_ahead(
        self, control_plane: ControlPlane
    ) -> None:
        file = control_plane.upload()
        attempt = control_plane.claimed(training_file=file)
        jobs = [control_plane.create_job(training_file=file)["id"] for _ in range(2)]
        stranger = control_plane.create_job(key="stranger")["id"]
        control_plane.sql(
            "UPDATE jobs SET estimated_finish_at = now() + interval '11.5 minutes' WHERE id = %s", attempt.job_id
        )
        free = "the next is expected to be free in about 12 minutes"
        busy = "Waits for a free worker: 1 of 1 of class cpu-2-cores-16gib is busy"
        assert waiting_reason(control_plane, jobs[0]) == f"{busy} with {attempt.job_id}; {free}; 1 job is ahead."
        assert waiting_reason(control_plane, jobs[1]) == f"{busy} with {attempt.job_id}; {free}; 2 jobs are ahead."
        assert waiting_reason(control_plane, stranger, key="stranger") == f"{busy} with 1 job; {free}; no job is ahead."
        control_plane.worker("gpu", hardware=ONE_GPU)
        idle = "Waits for a worker to take it: 1 of class 1x-nvidia-a10g-22gib is idle"
        busy = f"1 of 1 of class cpu-2-cores-16gib is busy with {attempt.job_id}"
        assert waiting_reason(control_plane, jobs[0]) == f"{idle}, {busy}; 1 job is ahead."

    def test_a_job_that_fits_one_class_waits_for_that_one_whatever_others_do(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        control_plane.sql("UPDATE jobs SET estimated_finish_at = now() + interval '3 hours'")
        control_plane.worker("idle", hardware=SMALL_CPU)
        job_id = control_plane.create_job()["id"]
        busy = f"1 of 1 of class cpu-2-cores-16gib is busy with {attempt.job_id}"
        free, misfit = (
            "the next is expected to be free in about 3 hours",
            f"it does not fit class {SMALL_CPU.worker_class}",
        )
        expected = f"Waits for a free worker: {busy}; {free}; {misfit}; no job is ahead."
        eventually(lambda: waiting_reason(control_plane, job_id) == expected, what="an answer about each class")

    def test_a_job_whose_attempt_has_failed_says_when_the_next_is_made(self, control_plane: ControlPlane) -> None:
        control_plane.worker()
        job_id = control_plane.create_job()["id"]
        control_plane.sql("UPDATE jobs SET not_before = '2999-01-01 12:00:00Z'")
        at = "2999-01-01 12:00:00 UTC"
        assert waiting_reason(control_plane, job_id) == f"An attempt has ended; the next one is made at {at}."

    def test_a_job_whose_worker_has_fallen_silent_says_that_none_is_connected(
        self, control_plane: ControlPlane
    ) -> None:
        control_plane.worker()
        job_id = control_plane.create_job()["id"]
        control_plane.sql("UPDATE workers SET last_seen_at = now() - interval '1 hour'")
        connected = "No worker is connected. The job starts as soon as one is."
        eventually(lambda: waiting_reason(control_plane, job_id) == connected, what="a look at the workers")

    def test_a_job_that_runs_or_has_ended_waits_for_nothing(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        assert waiting(control_plane, attempt.job_id)["reason"] == "The job is running: it waits for nothing."
        attempt.finish(Outcome.PREEMPTED)
        assert waiting(control_plane, attempt.job_id)["queue_position"] == 1

    def test_the_last_of_hundreds_of_jobs_has_a_reason_too(self, control_plane: ControlPlane) -> None:
        first = control_plane.create_job()
        fill(control_plane, first, count=250, alike=True)
        last = control_plane.create_job(model=add_large(control_plane))["id"]
        control_plane.worker()
        control_plane.keep(wake_for_waiting_jobs)
        assert control_plane.job(last)["tunesmith"]["waiting_reason"].startswith("cpu-2-cores-16gib: ")
