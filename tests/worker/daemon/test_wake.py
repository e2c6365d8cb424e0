"""A wake-up is only a hint: nothing in one can hurt, and the pool that takes it stays small."""

import subprocess
import sys

import pytest

from tunesmith.worker.daemon.celery_app import create_app
from tunesmith.worker.daemon.tasks import wake


@pytest.mark.parametrize("payload", [{}, {"job_id": "x"}, {"worker_class": 3}, {"worker_class": "cpu", "run": "rm"}])
def test_a_malformed_wake_up_does_nothing(payload: dict[str, object]) -> None:
    assert wake(**payload) is None


def test_messages_are_json_and_acknowledged_early() -> None:
    conf = create_app(queue="wake.test").conf
    assert conf.accept_content == ["json"]
    assert not conf.task_acks_late
    assert conf.task_ignore_result
    assert conf.worker_prefetch_multiplier == 1
    assert not conf.worker_enable_remote_control


def test_the_worker_around_the_trainer_never_imports_torch() -> None:
    script = (
        "import sys, tunesmith.worker.cli, tunesmith.worker.daemon.daemon, tunesmith.worker.daemon.tasks\n"
        "assert not {'torch', 'transformers', 'fastapi', 'sqlalchemy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
