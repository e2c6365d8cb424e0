"""The Celery side of the worker: one queue, wake-ups only, and nothing that could run a job twice or lose one."""

from typing import Any

from celery import Celery, signals

from tunesmith.worker.daemon.broker import use_careful_transport
from tunesmith.worker.logs import configure_logs
from tunesmith.worker.settings import WorkerSettings

IN_MEMORY = "memory://"  # the broker of a worker whose wake-ups come over HTTP: a queue of its main process
_POLLING_SECONDS = 0.2


def create_app(broker_url: str, *, queue: str) -> Celery:
    """A Celery application that consumes one queue of wake-ups.

    Messages are acknowledged early and carry no job, so redelivery, results, priorities and revocation are all off.
    """
    use_careful_transport()
    app = Celery("tunesmith.worker", broker=broker_url, include=["tunesmith.worker.daemon.tasks"])
    app.conf.update(
        task_acks_late=False,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        task_default_queue=queue,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=broker_url != IN_MEMORY,  # Redis alone can do without
        worker_pool_start_method="spawn",  # a fresh interpreter: no lock or socket of the main process comes along
        # Nothing of an attempt stays in this process, for training runs in its own: a new one for each wake-up, which
        # costs a second of imports, would buy nothing. Now and then one is replaced all the same.
        worker_max_tasks_per_child=64,
        worker_proc_alive_timeout=120,  # a busy machine may take long to start an interpreter
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # an outage of the broker of any length never ends the worker
        broker_channel_error_retry=True,  # nor does one that refuses: full memory or disk, a key of the wrong type
        broker_transport_options={
            "polling_interval": _POLLING_SECONDS,  # in memory
            "visibility_timeout": 300,
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
    )
    return app


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _set_up_logging(**_: Any) -> None:
    """Connected so that Celery leaves logging alone, in the main process and in each pool process."""
    configure_logs(WorkerSettings().log_format)
