"""A wake-up is only a hint: nothing in one can hurt, and the pool that takes it stays small."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kombu import Connection

from tests.waiting import eventually
from tunesmith.worker.daemon.celery_app import create_app
from tunesmith.worker.daemon.tasks import wake


@pytest.mark.parametrize("payload", [{}, {"job_id": "x"}, {"worker_class": 3}, {"worker_class": "cpu", "run": "rm"}])
def test_a_malformed_wake_up_does_nothing(payload: dict[str, object]) -> None:
    assert wake(**payload) is None


def test_messages_are_json_and_acknowledged_early() -> None:
    conf = create_app("redis://127.0.0.1:9", queue="wake.test").conf
    assert conf.accept_content == ["json"]
    assert not conf.task_acks_late
    assert conf.task_ignore_result
    assert conf.worker_disable_prefetch
    assert not conf.worker_enable_remote_control
    assert conf.broker_connection_max_retries is None
    assert conf.broker_channel_error_retry


# What ends kombu's own consumer: words that are no JSON, JSON that is no message, bytes that are no text.
GARBAGE = (
    b"garbage",
    b"[]",
    b"{}",
    b'{"body": "x"}',
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"body": 5, "headers": 5, "properties": 5}',
)
QUEUE = "wake.garbage"
SERVES = (
    "import sys\n"
    "from tunesmith.worker.daemon import broker, celery_app, daemon\n"
    "from tunesmith.worker.settings import WorkerSettings\n"
    "if sys.argv[1] == 'careless':\n"
    "    broker.use_careful_transport = celery_app.use_careful_transport = lambda: None\n"
    "if __name__ == '__main__':\n"
    "    worker = daemon.WorkerDaemon(WorkerSettings(), name='w')\n"
    f"    sys.exit(worker._serve(celery_app.create_app(worker._broker_url(), queue={QUEUE!r})))\n"
)


@contextmanager
def serving(redis_url: str, folder: Path, consumer: str = "careful") -> Iterator["subprocess.Popen[bytes]"]:
    """A worker's main process that consumes QUEUE, and writes to `folder`/log; nobody answers it."""
    (folder / "serves.py").write_text(SERVES)
    settings = {"TUNESMITH_URL": "http://127.0.0.1:9", "TUNESMITH_WORKER_KEY": "ts-x", "REDIS_URL": redis_url}
    settings |= {"TUNESMITH_WORK_DIR": str(folder), "TUNESMITH_WARM_TRAINER": "false"}
    command = [sys.executable, str(folder / "serves.py"), consumer]
    with (folder / "log").open("wb") as log:
        worker = subprocess.Popen(command, env={**os.environ, **settings}, stdout=log, stderr=log)
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()
        with Connection(redis_url) as connection:
            connection.default_channel.client.delete(QUEUE)


@pytest.mark.parametrize("consumer", ["careful", "careless"])
def test_garbage_in_the_queue_does_not_end_the_worker_and_an_end_of_the_consumer_is_no_success(
    redis_url: str, tmp_path: Path, consumer: str
) -> None:
    with Connection(redis_url) as connection:
        valkey = connection.default_channel.client
        valkey.delete(QUEUE)
        valkey.rpush(QUEUE, *GARBAGE)
        with serving(redis_url, tmp_path, consumer) as worker:
            if consumer == "careless":
                assert worker.wait(60) != 0
                return

            def is_over() -> bool:
                said = (tmp_path / "log").read_text().count("wake.unreadable")
                return worker.poll() is not None or (said == len(GARBAGE) and not valkey.llen(QUEUE))

            eventually(is_over, what=(tmp_path / "log").read_text)
            assert worker.poll() is None, (tmp_path / "log").read_text()
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(60) == 0, (tmp_path / "log").read_text()


def test_a_broker_that_refuses_does_not_end_the_worker_and_is_used_again_when_it_accepts(
    redis_url: str, tmp_path: Path
) -> None:
    def said(text: str) -> bool:
        return worker.poll() is not None or text in (tmp_path / "log").read_text()

    with Connection(redis_url) as connection, serving(redis_url, tmp_path) as worker:
        valkey = connection.default_channel.client
        eventually(lambda: any(client["cmd"] == "brpop" for client in valkey.client_list()), what="a consumer")
        valkey.set(QUEUE, "no list")
        eventually(lambda: said("server:ResponseError"), what=(tmp_path / "log").read_text)
        valkey.delete(QUEUE)
        valkey.rpush(QUEUE, b"garbage")
        eventually(lambda: said("wake.unreadable"), what=(tmp_path / "log").read_text)
        assert worker.poll() is None, (tmp_path / "log").read_text()


def test_the_worker_around_the_trainer_never_imports_torch() -> None:
    script = (
        "import sys, tunesmith.worker.cli, tunesmith.worker.daemon.daemon, tunesmith.worker.daemon.tasks\n"
        "assert not {'torch', 'transformers', 'fastapi', 'sqlalchemy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
