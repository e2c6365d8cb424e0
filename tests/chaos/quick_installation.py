"""An installation with short intervals and the tiny model, for whoever kills its parts."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.stack.installation import MODEL
from tests.stack.up import Up
from tests.tiny_model import build_tiny_model

SHORT_INTERVALS = {
    "TUNESMITH_LEASE_SECONDS": "12",  # longer than a restart of any part on a busy machine
    "TUNESMITH_HEARTBEAT_SECONDS": "1",
    "TUNESMITH_KEEPER_SECONDS": "0.5",
    "TUNESMITH_RETRY_SECONDS": "0.1",
    "TUNESMITH_GRACE_SECONDS": "30",
    "TUNESMITH_SLOTS": "2",  # one core and so one thread to each: the same speed on a machine with other work to do
}


@contextlib.contextmanager
def installation(folder: Path, *options: str, **settings: str) -> Iterator[Up]:
    """A running installation with the tiny model in it; nothing of it is left afterwards."""
    model = build_tiny_model(folder / "tiny")
    running = Up(folder / "data", *options, **(SHORT_INTERVALS | settings))
    try:
        running.wait_ready()
        running.tunesmith("models", "add", MODEL, "--path", str(model))
        yield running
    finally:
        running.end()


def submit(up: Up, *, rows: int, epochs: int) -> str:
    """A job with dropout, of which every random number counts, and long rows; returns its id."""
    adapter = {"rank": 4, "dropout": 0.1}
    return up.submit(
        rows=rows, held_out_rows=0, epochs=epochs, seed=11, answer_end=", one more than before", lora=adapter
    )
