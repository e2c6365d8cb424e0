"""What a worker and its warm process say to each other, over a socket that carries descriptors too."""

import json
import socket
from collections.abc import Mapping

from tunesmith.tuning.values.base import Value
from tunesmith.worker.sandbox.definition import Sandbox

ROOM = "TUNESMITH_ROOM"  # fills the warm process's environment, so that a fork's own fits into its place
ROOM_BYTES = 8192
LONGEST_MESSAGE_BYTES = 128 * 1024
LONGEST_DESCRIPTOR_LIST = 64
GO = b"go"
# First among the descriptors that come with a request; the locks of the slot follow.
STANDARD_INPUT, OUTPUT, GATE, LOCKS = 0, 1, 2, 3


class ForkRequest(Value):
    """One trainer to fork: what for, in which environment, and whose child it shall become."""

    run_dir: str
    environment: dict[str, str]
    worker_pid: int
    sandbox: Sandbox | None = None


class Word(Value):
    """What the warm process says: that it is ready, or why it is not, or will not fork."""

    ready: bool = False
    refused: str | None = None


def say(to: socket.socket, word: Word) -> None:
    """Send one message; a worker that is gone hears nothing."""
    to.send(word.model_dump_json().encode())


def hear(source: socket.socket) -> Word | None:
    """The next message; None when the warm process is gone.

    Raises:
        ValueError: what came is not a message.
    """
    message = source.recv(LONGEST_MESSAGE_BYTES)
    return Word.model_validate_json(message) if message else None


def ask(to: socket.socket, request: ForkRequest, descriptors: list[int]) -> None:
    """Send a request with its descriptors.

    Raises:
        OSError: the warm process is gone.
    """
    socket.send_fds(to, [request.model_dump_json().encode()], descriptors)


def next_request(source: socket.socket) -> tuple[ForkRequest, list[int]] | None:
    """Wait for a request; None at the worker's end."""
    message, descriptors, _, _ = socket.recv_fds(source, LONGEST_MESSAGE_BYTES, LONGEST_DESCRIPTOR_LIST)
    return (ForkRequest(**json.loads(message)), list(descriptors)) if message else None


def differing(one: Mapping[str, str], other: Mapping[str, str], *, but: frozenset[str]) -> list[str]:
    """Names of variables that the two environments do not share with equal values, other than those in `but`."""
    return sorted(name for name in one.keys() | other.keys() if name not in but and one.get(name) != other.get(name))
