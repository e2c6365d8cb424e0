"""The Celery side of the worker: one queue, wake-ups only, and nothing that could run a job twice or lose one."""

from typing import Any, Final

from celery import Celery, signals

from tunesmith.worker.logs import configure_logs
from tunesmith.worker.settings import WorkerSettings

IN_MEMORY: Final = "memory://localhost/"  # a queue of the main process: wake-ups come to it over HTTP or from a broker
_POLLING_SECONDS = 0.02


def create_app(*, queue: str) -> Celery:
    """A Celery application whose pool takes wake-ups out of one queue in memory.

    Messages are acknowledged early and carry no job, so redelivery, results, priorities and revocation are all off.
    """
    app = Celery("tunesmith.worker", broker=IN_MEMORY, include=["tunesmith.worker.daemon.tasks"])
    app.conf.update(
        task_acks_late=False,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        task_default_queue=queue,
        worker_prefetch_multiplier=1,
        worker_pool_start_method="spawn",  # a fresh interpreter: no lock or socket of the main process comes along
        # Nothing of an attempt stays in this process, for training runs in its own: a new one for each wake-up, which
        # costs a second of imports, would buy nothing. Now and then one is replaced all the same.
        worker_max_tasks_per_child=64,
        worker_proc_alive_timeout=120,  # a busy machine may take long to start an interpreter
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_transport_options={"polling_interval": _POLLING_SECONDS},
    )
    return app


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _set_up_logging(**_: Any) -> None:
    """Connected so that Celery leaves logging alone, in the main process and in each pool process."""
    configure_logs(WorkerSettings().log_format)
