"""The service as an inference worker sees it: register, beat, and files of models by hash."""

from pathlib import Path

from tunesmith.tuning.inference_messages import (
    InferenceHeartbeat,
    InferenceWorkerRegistered,
    RegisterInferenceWorker,
)
from tunesmith.tuning.messages import FileRef
from tunesmith.worker.transport.blobs import download
from tunesmith.worker.transport.control import BLOB_TIMEOUT, TIMEOUT, json_content
from tunesmith.worker.transport.retry import Patience
from tunesmith.worker.transport.wire import read_answer, send, service_client

_PATH = "/internal/inference-workers"
_DOWNLOAD = Patience(seconds=30)  # somebody waits for the answer


class HttpInferenceControl:
    """Safe to use from several threads."""

    def __init__(self, *, url: str, worker_key: str, worker_id: str) -> None:
        self._worker_id = worker_id
        self._client = service_client(url, worker_key, timeout=TIMEOUT)
        self._blob_client = service_client(url, worker_key, timeout=BLOB_TIMEOUT)

    def register(self, request: RegisterInferenceWorker) -> InferenceWorkerRegistered:
        """Introduce this start, once, without waiting."""
        response = send(self._client, "POST", _PATH, **json_content(request))
        return read_answer(InferenceWorkerRegistered, response.content)

    def heartbeat(self, beat: InferenceHeartbeat) -> None:
        """Say that the process lives, once, without waiting."""
        send(self._client, "POST", f"{_PATH}/{self._worker_id}/heartbeat", **json_content(beat))

    def download(self, file: FileRef, target: Path) -> None:
        """Fetch a file of a model to `target`, which exists only when its bytes have the right hash.

        Raises:
            NotFound: no model has such a file any more.
            Unavailable: the service or the wire is away.
        """
        path = f"{_PATH}/{self._worker_id}/blobs/{file.sha256}"
        _DOWNLOAD.call(lambda: download(self._blob_client, path, file, target, check=_DOWNLOAD.check))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._blob_client.close()
