"""The calls about base models and fine-tuned ones, and about their files."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import quote

import httpx2

from tunesmith.cli.client.errors import ServiceError, error_in_stream
from tunesmith.cli.client.transport import PIECE_BYTES, UPLOAD_TIMEOUT, Transport
from tunesmith.tuning.api.base import recorded
from tunesmith.tuning.api.lists import Deleted
from tunesmith.tuning.api.models import ModelFetch, ModelList, ModelObject
from tunesmith.tuning.values.json_objects import Json


class ModelCalls(Transport):
    """Name models, send and read their files, forget them."""

    def list_models(self) -> list[ModelObject]:
        """Base models and fine-tuned ones."""
        return self.ask(ModelList, "GET", "/models").data

    def model(self, name: str) -> ModelObject:
        """One model, by its name or by an alias that stands for it."""
        return self.ask(ModelObject, "GET", f"/models/{quote(name, safe='')}")

    def register_model(self, body: Json) -> ModelObject:
        """Name a set of files as a model. `tunesmith.missing` lists what the store still lacks."""
        return self.ask(ModelObject, "POST", "/models", json=body, is_repeatable=True)

    @contextmanager
    def fetch_model(self, body: Json) -> Iterator[Iterator[ModelFetch | ModelObject]]:
        """How far the service has fetched a model of the hub, at the end the model; leaving early ends the fetch.

        Raises:
            ServiceError: the service refuses, the hub does not give it, or the answer broke off.
        """
        with self.stream("POST", "/models/from_hub", json=body) as answer:
            yield _fetch_lines(answer)

    def delete_model(self, name: str) -> Deleted:
        """Forget a model."""
        return self.ask(Deleted, "DELETE", f"/models/{quote(name, safe='')}")

    def put_blob(self, sha256: str, path: Path, *, wrap: Callable[[IO[bytes]], IO[bytes]] = lambda file: file) -> None:
        """Send the bytes that hash to `sha256`; twice is harmless. Starts over when the connection breaks."""

        def content() -> Iterator[bytes]:
            with path.open("rb") as file:
                watched = wrap(file)
                while piece := watched.read(PIECE_BYTES):
                    yield piece

        headers = {"Content-Length": str(path.stat().st_size), "Content-Type": "application/octet-stream"}
        self.send("PUT", f"/blobs/{sha256}", content=content, headers=headers, timeout=UPLOAD_TIMEOUT)

    def model_file(self, name: str, sha256: str) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes of one file of a model, in pieces."""
        return self.pieces(f"/blobs/{sha256}?model={quote(name, safe='')}")


def _fetch_lines(answer: httpx2.Response) -> Iterator[ModelFetch | ModelObject]:
    for text in answer.iter_lines():
        line: Json = json.loads(text)
        if error := line.get("error"):
            raise error_in_stream(error)
        if line.get("object") == "model":
            yield recorded(ModelObject, line)
            return
        yield recorded(ModelFetch, line)
    raise ServiceError("The answer broke off.", http_status=503, hint="ask again: what has come is kept for a day")
