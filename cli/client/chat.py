"""The call that asks a model."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2

from tunesmith.cli.client.errors import ServiceError, error_in_stream
from tunesmith.cli.client.transport import Transport
from tunesmith.tuning.inference_messages import TELL_WAITING
from tunesmith.tuning.values.json_objects import Json

_WAITING = ": waiting: "  # a comment of the event stream
_ANSWER_TIMEOUT = httpx2.Timeout(600, connect=5)  # until an answer begins: an engine may have to load the model first


class ChatCalls(Transport):
    """Ask models and read their answers as they come."""

    @contextmanager
    def chat(self, body: Json) -> Iterator[Iterator[Json]]:
        """The chunks of a model's answer as they come; leaving the block early gives the rest up.

        While the answer waits there are chunks {"waiting": "what for"}.

        Raises:
            ServiceError: the service refuses, or the answer broke off.
        """
        headers, asked = {TELL_WAITING: "yes"}, {**body, "stream": True}
        with self.stream("POST", "/chat/completions", headers=headers, json=asked, timeout=_ANSWER_TIMEOUT) as answer:
            yield _chunks(answer)


def _chunks(answer: httpx2.Response) -> Iterator[Json]:
    for line in answer.iter_lines():
        if line == "data: [DONE]":
            return
        if line.startswith(_WAITING):
            yield {"waiting": line.removeprefix(_WAITING)}
        if line.startswith("data: "):
            chunk: Json = json.loads(line[6:])
            if error := chunk.get("error"):
                raise error_in_stream(error)
            yield chunk
    raise ServiceError("The answer broke off.", http_status=503, hint="ask again")
