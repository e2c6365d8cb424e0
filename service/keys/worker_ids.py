"""A worker's id belongs to the key that registered it: no other key may claim, report or read under that id."""

from tunesmith.service.database.inference_tables import InferenceWorker
from tunesmith.service.database.tables import WorkerNode
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Forbidden


def check_owner(worker: WorkerNode | InferenceWorker, lineage: str) -> None:
    """One that registered before ids had owners becomes that of the first key that speaks for it.

    Raises:
        Forbidden: another key registered this id.
    """
    worker.key_lineage = worker.key_lineage or lineage
    if worker.key_lineage != lineage:
        raise taken(worker.id)


def taken(worker_id: str) -> Forbidden:
    """The error of a key that speaks for a worker of another."""
    return Forbidden(
        f"Worker {worker_id!r:.120} was registered with another key.",
        code=ErrorCode.WORKER_OF_ANOTHER_KEY,
        param="worker_id",
        hint="Use that key or one that a rotation made of it. If it is lost, revoke it, and start the worker again.",
    )
