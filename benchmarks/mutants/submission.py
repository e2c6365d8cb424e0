"""Breakages of what a client is promised about the jobs that it sends, and of wake-ups that may be lost."""

from benchmarks.mutants.breakage import Breakage

_JOBS = "tests/service/test_creating_jobs.py"
_GROUPS = "tests/service/test_submit_groups.py"
_KEEPER = "tests/service/test_keeper.py"
_RACES = "tests/races/test_races.py"
_BROKER = "tests/worker/daemon/test_broker.py"
_WAKE_THREAD = "tests/worker/daemon/test_wake_thread.py"
_WAKE = "tests/worker/daemon/test_wake.py"
_RETRY = f"{_JOBS}::test_a_retry_of_the_client_finds_the_job_that_its_first_try_made"
_KEY = f"{_JOBS}::test_an_idempotency_key_finds_the_same_job_and_refuses_another_body"

BREAKAGES = (
    Breakage(
        "G1",
        "an answer is sent before what it says is committed",
        "service/web/dependencies.py",
        'Depends(_session, scope="function")',
        'Depends(_session, scope="request")',
        "tests/service/attempts/test_fault_points.py::test_a_cancel_that_breaks_off_at_its_commit_is_no_success",
    ),
    Breakage(
        "G1",
        "a new job records no wake-up",
        "service/jobs/start.py",
        "    await outbox.wake_later(session, [worker_class for one in starts for worker_class in one.wake])\n",
        "",
        f"{_KEEPER}::TestWaking::test_a_submit_wakes_the_classes_that_fit",
    ),
    Breakage(
        "G1",
        "the database lets a finished job change",
        "migrations/versions/0001_the_first_schema.py",
        "CREATE TRIGGER jobs_referee BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION jobs_referee();",
        "",
        "tests/migrations/test_migrations.py::test_a_finished_job_never_changes",
    ),
    Breakage(
        "G2",
        "an idempotency key is taken for a request with another body",
        "service/idempotency/reserve.py",
        "return stored.request_sha256 == request_sha256",
        "return True",
        _KEY,
    ),
    Breakage(
        "G2",
        "an idempotency key is forgotten at once",
        "service/idempotency/store.py",
        "_LIFETIME = timedelta(hours=24)",
        "_LIFETIME = timedelta(hours=-24)",
        _KEY,
    ),
    Breakage(
        "G2",
        "an idempotency key of one project is found by another",
        "service/idempotency/store.py",
        '    IdempotencyKey.project == bindparam("of_project"),\n',
        "",
        f"{_JOBS}::test_an_idempotency_key_is_its_projects_own",
    ),
    Breakage(
        "G2",
        "a retry of the client makes a second job",
        "service/jobs/submit.py",
        "submission.idempotency_key is not None or not submission.is_retry:",
        "True:",
        _RETRY,
    ),
    Breakage(
        "G2",
        "a key that an older version has stored meanwhile makes a second job",
        "service/idempotency/store.py",
        "if stored.rowcount < len(rows):",
        "if False:",
        f"{_GROUPS}::test_a_copy_that_an_older_version_handles_meanwhile_makes_no_second_job",
    ),
    Breakage(
        "G2",
        "a retry is recorded together with its first try",
        "service/jobs/submit_groups.py",
        "(group and submission.is_retry)",
        "False",
        f"{_GROUPS}::test_a_retry_among_others_finds_the_job_of_its_first_try",
    ),
    Breakage(
        "G19",
        "a project whose submits are held up holds up those of others",
        "service/jobs/submit_groups.py",
        "project = submission.caller.project",
        'project = "all"',
        f"{_GROUPS}::test_a_project_that_is_held_up_holds_up_no_other",
    ),
    Breakage(
        "G3",
        "the keeper delivers nothing that the API could not send",
        "service/keeper/chores.py",
        '        Chore("deliver the outbox", deliver_outbox, every_seconds=each_sweep),\n',
        "",
        f"{_KEEPER}::TestWaking::test_what_the_api_could_not_deliver_the_keeper_delivers",
    ),
    Breakage(
        "G3",
        "a message that was delivered is delivered again and again",
        "service/outbox/delivery.py",
        "            await store.mark_delivered(session, delivered)",
        "            pass",
        f"{_KEEPER}::TestWaking::test_a_message_counts_as_delivered_when_it_was_sent_and_not_before",
    ),
    Breakage(
        "G3",
        "a message that could not be sent counts as delivered",
        "service/outbox/delivery.py",
        'if message.payload["worker_class"] in woken]',
        'if {*woken, ""}]',
        f"{_KEEPER}::TestWaking::test_a_message_counts_as_delivered_when_it_was_sent_and_not_before",
    ),
    Breakage(
        "G3",
        "a lost wake-up is not sent again",
        "service/keeper/waiting_jobs.py",
        "waking = await _due_to_wake(context.database, _wakes(line, fits, live, classes=wanted & idle))",
        "waking: set[str] = set()",
        f"{_KEEPER}::TestWaking::test_a_lost_wake_up_is_sent_again_but_not_all_the_time",
    ),
    Breakage(
        "G3",
        "every sweep of the keeper sends every wake-up again",
        "service/keeper/waiting_jobs.py",
        "_WAKE_AGAIN = timedelta(seconds=15)",
        "_WAKE_AGAIN = timedelta(seconds=-15)",
        f"{_KEEPER}::TestWaking::test_a_lost_wake_up_is_sent_again_but_not_all_the_time",
    ),
    Breakage(
        "G3",
        "a broker that is away is an error of the service",
        "service/announcer.py",
        '            log.warning("wake.not_sent", worker_class=worker_class, error=type(error).__name__)\n',
        "            raise\n",
        "tests/service/test_operations.py::test_ringing_without_a_broker_says_no_and_does_not_raise",
    ),
    Breakage(
        "G3",
        "a malformed wake-up makes a worker claim",
        "worker/daemon/tasks.py",
        '        log.warning("wake.malformed", keys=sorted(payload)[:8])\n        return\n',
        '        log.warning("wake.malformed", keys=sorted(payload)[:8])\n',
        f"{_WAKE}::test_a_malformed_wake_up_does_nothing",
    ),
    Breakage(
        "G3",
        "a wake-up is acknowledged only when the job has ended",
        "worker/daemon/celery_app.py",
        "task_acks_late=False",
        "task_acks_late=True",
        f"{_WAKE}::test_messages_are_json_and_acknowledged_early",
    ),
    Breakage(
        "G3",
        "a worker reads pickles from the broker",
        "worker/daemon/celery_app.py",
        '        accept_content=["json"],',
        '        accept_content=["json", "pickle"],',
        f"{_WAKE}::test_messages_are_json_and_acknowledged_early",
    ),
    Breakage(
        "G3",
        "a broker that refuses ends the thread that listens",
        "worker/daemon/broker.py",
        "except Exception as error:",
        "except OSError as error:",
        f"{_BROKER}::test_a_broker_that_refuses_is_asked_after_growing_pauses_and_told_of_at_its_beginning_and_its_end",
    ),
    Breakage(
        "G3",
        "wake-ups over HTTP are not asked for while the broker is away",
        "worker/daemon/broker.py",
        "        self.is_away.set()\n",
        "",
        f"{_BROKER}::test_a_broker_that_refuses_is_asked_after_growing_pauses_and_told_of_at_its_beginning_and_its_end",
    ),
    Breakage(
        "G3",
        "an unforeseen answer ends the thread that asks for wake-ups over HTTP",
        "worker/daemon/wake_thread.py",
        "except Exception as error:",
        "except OSError as error:",
        f"{_WAKE_THREAD}::test_an_answer_that_cannot_be_read_is_asked_for_again",
    ),
)
