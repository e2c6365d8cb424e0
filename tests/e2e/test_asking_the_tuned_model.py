"""The line behind a job: its model is asked through the service, whatever is killed meanwhile."""

import os
import signal
from collections.abc import Callable, Iterator

import httpx2
import openai
import psutil
import pytest

from tests.stack.installation import MODEL
from tests.stack.services import Services
from tests.stack.stand_in_engine import fingerprint
from tests.stack.worker import Worker, trainers_below
from tests.waiting import eventually

pytestmark = [pytest.mark.timeout(400), pytest.mark.slow]  # a real job: a minute and a half of one core


@pytest.fixture
def host(stack: Services) -> Iterator[tuple[Worker, Worker]]:
    """A machine that trains and, while it does not, serves: both from one slot."""
    folder = stack.root / "shared"
    trains = stack.start_worker(work_dir=folder)
    serves = stack.start_inference_worker(work_dir=folder, TUNESMITH_INFERENCE_GRACE_SECONDS="0.5")
    yield trains, serves
    stack.cancel_everything()
    serves.kill()
    trains.kill()


def test_a_tuned_model_answers_and_a_job_comes_before_answers(stack: Services, host: tuple[Worker, Worker]) -> None:
    trains, serves = host
    base = fingerprint(stack.root / "tiny")
    eventually(lambda: said(stack, MODEL) == f"base {base} adapter none said hello", what=stack.logs)
    engine = engine_of(serves)

    broken = stream_of(stack, "slowly 2000", when_it_has_begun=lambda: os.kill(engine, signal.SIGKILL))
    assert broken == "engine_lost"
    assert eventually(lambda: said(stack, MODEL), what=stack.logs).startswith(f"base {base}")

    job_id = stack.submit(rows=8, held_out_rows=0)
    tuned = stack.wait_for_status(job_id, "succeeded")["fine_tuned_model"]
    assert serves.said("engines.leave")
    adapter = eventually(lambda: said(stack, tuned), what=stack.logs)
    assert adapter.startswith(f"base {base} adapter ")
    assert fingerprint(next((trains.work_dir / "adapters").glob("[0-9a-f]*[0-9a-f]"))) in adapter

    broken = stream_of(stack, "slowly 2000", when_it_has_begun=serves.kill)
    assert broken == "inference_worker_silent"
    eventually(lambda: engines_of(serves) == [], what="the end of the engines")
    again = stack.start_inference_worker(work_dir=serves.work_dir)
    assert eventually(lambda: said(stack, tuned), what=stack.logs) == adapter
    assert again.terminate() == 0
    assert engines_of(again) == []


def said(stack: Services, model: str) -> str:
    """What the model says; nothing while nobody can answer."""
    with stack.openai(max_retries=0) as client:
        try:
            answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hello"}])
        except (openai.InternalServerError, openai.APIConnectionError):
            return ""
    return str(answer.choices[0].message.content)


def stream_of(stack: Services, text: str, *, when_it_has_begun: Callable[[], object]) -> str:
    """The code that a stream ended with, in the middle of which something happened."""
    asked = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": text}]}
    with stack.http() as client, client.stream("POST", "/v1/chat/completions", json=asked) as answer:
        assert answer.status_code == 200, answer.read()
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        when_it_has_begun()
        last = [line for line in lines if line.startswith("data: ")][-1]
    return str(httpx2.Response(200, text=last[6:]).json()["error"]["code"])


def engines_of(worker: Worker) -> list[psutil.Process]:
    return trainers_below(worker.work_dir / "serving")


def engine_of(worker: Worker) -> int:
    return engines_of(worker)[0].pid
