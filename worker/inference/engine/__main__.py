"""`python -m tunesmith.worker.inference.engine --model FOLDER --served-model-name NAME --host H --port N`: serve it.

The key that requests have to carry is TUNESMITH_ENGINE_KEY. SIGTERM: no new requests, those under way may finish.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import FrameType

import uvicorn

from tunesmith.tuning.errors import JobFailure
from tunesmith.worker.train import environment  # noqa: F401 - before torch

KEY_VARIABLE = "TUNESMITH_ENGINE_KEY"


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 after a SIGTERM, 2 for wrong arguments, or 1 with one line {"code", "message", "hint"} on stderr."""
    options = _options(arguments)
    key = os.environ[KEY_VARIABLE]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        serve(options, key=key)
    except JobFailure as error:
        failure = error.failure
        print(json.dumps({"code": failure.code, "message": failure.message, "hint": failure.hint}), file=sys.stderr)
        return 1
    return 0


def serve(options: argparse.Namespace, *, key: str) -> None:
    """Load the model and answer until told to end.

    Raises:
        JobFailure: the model cannot be served.
    """
    from tunesmith.worker.inference.engine.answering.engine import Engine, Limits
    from tunesmith.worker.inference.engine.answering.prompts import Prompts
    from tunesmith.worker.inference.engine.compute.model import BatchModel
    from tunesmith.worker.inference.engine.web.app import create_app
    from tunesmith.worker.inference.engine.web.conversation import Served

    model = BatchModel.load(options.model)
    prompts = Prompts(options.model, today=date.today)
    limits = Limits(
        sequences=options.max_num_seqs,
        waiting=options.max_waiting,
        context_tokens=options.max_model_len,
        adapter_bytes=options.max_adapter_bytes,
        cache_bytes=options.max_cache_bytes,
        prefix_bytes=options.max_prefix_bytes,
    )
    engine = Engine(model, limits=limits)
    served = Served(engine, prompts, name=options.served_model_name, vocabulary=model.vocabulary, clock=time.time)
    config = uvicorn.Config(
        create_app(served, key=key),
        host=options.host,
        port=options.port,
        http="h11",  # which bounds the head of a request; httptools, where it is installed, does not
        log_level="warning",
        timeout_graceful_shutdown=5,
        lifespan="off",
    )
    stepping = threading.Thread(target=run_or_end, args=(engine.run,), name="engine", daemon=True)
    stepping.start()
    _Server(config, engine, grace_seconds=options.grace_seconds).run(
        sockets=None if options.listener is None else [socket.socket(fileno=options.listener)]
    )
    engine.stop()
    stepping.join(timeout=options.grace_seconds)


def run_or_end(run: Callable[[], None]) -> None:
    """Where the engine's loop fails the process ends at once: every request would wait for an answer for ever."""
    try:
        run()
    except BaseException:
        logging.getLogger(__name__).exception("The engine cannot go on")
        os._exit(1)


class _Server(uvicorn.Server):
    """Ends when it was told to and nothing is under way any more, or the grace is over."""

    def __init__(self, config: uvicorn.Config, engine: object, *, grace_seconds: float) -> None:
        super().__init__(config)
        self._engine, self._grace_seconds = engine, grace_seconds
        self._ends_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's own
        """The first signal lets answers finish, another one does not."""
        if self._ends_at is not None:
            self.should_exit = True
            return
        self._engine.drain()  # type: ignore[attr-defined]
        self._ends_at = time.monotonic() + self._grace_seconds

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if self._ends_at is not None and (self._is_quiet() or time.monotonic() >= self._ends_at):
            self.should_exit = True
        return await super().on_tick(counter)

    def _is_quiet(self) -> bool:
        return self._engine.is_idle and not self.server_state.tasks  # type: ignore[attr-defined]


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tunesmith.worker.inference.engine", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of a base or of a merged model")
    parser.add_argument("--served-model-name", required=True, help="what requests call the base")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--listener", type=int, help="descriptor of an open socket of that port, inherited")
    parser.add_argument("--max-model-len", type=int, help="tokens of prompt and answer; the model's own if not given")
    parser.add_argument("--max-adapter-bytes", type=int, default=2 * 1024**3)
    parser.add_argument("--max-cache-bytes", type=int, default=4 * 1024**3, help="keys and values of all answers")
    parser.add_argument("--max-prefix-bytes", type=int, default=256 * 1024**2, help="kept beginnings of prompts")
    parser.add_argument("--max-num-seqs", type=int, default=16, help="answers written at once")
    parser.add_argument("--max-waiting", type=int, default=256, help="answers that may wait for a place")
    parser.add_argument("--grace-seconds", type=float, default=30.0)
    options = parser.parse_args(arguments)
    if not os.environ.get(KEY_VARIABLE):
        parser.error(f"{KEY_VARIABLE} is not set: set it to a secret that requests then carry")
    return options


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # a template that does not end would hold its thread, and an orderly exit waits for threads
