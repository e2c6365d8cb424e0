"""A worker beside a live API that trains every job at once, with the numbers that a test gives."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.control_plane import ControlPlane
from tunesmith.tuning.errors import Category, Failure
from tunesmith.tuning.state import Outcome

FAILURE = Failure(code="no_supervised_tokens", message="No row teaches anything.", category=Category.USER_ERROR)


@contextmanager
def training(plane: ControlPlane, *, valid_loss: float = 1.5, fails: bool = False) -> Iterator[None]:
    """Claims and ends jobs until the block ends."""
    stop = threading.Event()
    worker = plane.worker()

    def train() -> None:
        while not stop.wait(0.05):
            attempt = worker.claim()
            if attempt is None:
                continue
            points = [
                {"step": 0, "valid_loss": 3.0, "valid_mean_token_accuracy": 0.25},
                {"step": 1, "train_loss": 2.0, "total_steps": 1, "valid_loss": valid_loss,
                 "valid_mean_token_accuracy": 0.75},
            ]  # fmt: skip
            assert attempt.metrics(points).is_success
            if fails:
                attempt.finish(Outcome.FAILED, failure=FAILURE)
            else:
                attempt.succeed()

    thread = threading.Thread(target=train)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def shell(plane: ControlPlane, environment: Mapping[str, str]) -> dict[str, str]:
    """What a pipeline's shell has, for this API and both kinds of client."""
    return {
        **environment,
        "TUNESMITH_URL": plane.url,
        "TUNESMITH_API_KEY": plane.keys["member"],
        "OPENAI_BASE_URL": f"{plane.url}/v1",
        "OPENAI_API_KEY": plane.keys["member"],
    }
