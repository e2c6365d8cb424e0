"""Models are asked by the unmodified client; each answers with its own weights, or not at all, and the end is clear."""

import json
import socket

import openai
import pytest
import sqlalchemy

from tests.control_plane import TINY_CONFIG, ControlPlane, sha256
from tests.service.inference.conftest import (
    DONE,
    HANG,
    IMPATIENT_SECONDS,
    USAGE,
    InferenceSide,
    StandInGateway,
    answer,
    ask,
    event,
    events_of,
    line,
    refusal,
    stream_head,
)
from tests.service.test_access import is_error
from tests.waiting import PATIENCE_SECONDS, eventually
from tunesmith.service.database.transactions import Database
from tunesmith.service.inference.usage import UsageCounter
from tunesmith.service.inference.used import Used
from tunesmith.tuning.state import Outcome

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors")
BASE = sha256(b"tiny-llama")[:8]


def tuned(plane: ControlPlane, weights: bytes) -> str:
    """A fine-tuned model of these weights; its name."""
    attempt = plane.claimed(f"worker-{weights.hex()}", training_file=plane.upload(name=f"{weights.hex()}.jsonl"))
    assert attempt.artifact(weights=weights).status_code == 204
    assert attempt.finish(Outcome.SUCCEEDED).status_code == 204
    return str(plane.job(attempt.job_id)["fine_tuned_model"])


@pytest.mark.usefixtures("inference")
def test_the_openai_client_gets_an_answer_whole_and_streamed(
    control_plane: ControlPlane, gateway: StandInGateway
) -> None:
    with control_plane.openai() as client:
        said = [{"role": "user", "content": "hello"}]
        whole = client.chat.completions.with_raw_response.create(model="tiny-llama", messages=said, seed=1)
        assert whole.headers["x-tunesmith-served-by"] == "tunesmith/inference-1"
        assert whole.headers["x-tunesmith-waited-for"] == "0.1 s"
        told = whole.parse()
        assert (told.model, told.choices[0].message.content) == ("tiny-llama", BASE)
        assert told.usage.total_tokens == USAGE["total_tokens"]
        chunks = list(client.chat.completions.create(model="tiny-llama", messages=said, stream=True))
        assert "".join(c.choices[0].delta.content or "" for c in chunks).strip() == BASE
        assert {chunk.model for chunk in chunks} == {"tiny-llama"}
        assert client.completions.create(model="tiny-llama", prompt="once").choices[0].text == BASE
    assert [asked["path"] for asked in gateway.asked] == ["chat/completions"] * 2 + ["completions"]
    assert gateway.asked[0]["body"] == {"messages": said, "seed": 1, "model": "tiny-llama"}


@pytest.mark.usefixtures("inference")
def test_a_top_p_of_nought_is_asked_for_in_the_words_that_engines_take(
    control_plane: ControlPlane, gateway: StandInGateway
) -> None:
    with control_plane.openai() as client:
        client.completions.create(model="tiny-llama", prompt="once", top_p=0, temperature=1)
    body = gateway.asked[0]["body"]
    assert (body["top_p"], body["temperature"]) == (1, 0)


@pytest.mark.usefixtures("inference")
def test_a_tuned_model_is_its_own_adapter_on_its_base_and_is_gone_when_deleted(
    control_plane: ControlPlane, gateway: StandInGateway
) -> None:
    first, second = tuned(control_plane, b"\x01"), tuned(control_plane, b"\x02")
    for name, weights in ((first, b"\x01"), (second, b"\x02")):
        answered = ask(control_plane, name)
        assert answered.json()["model"] == name
        adapter = gateway.asked[-1]["model"]["adapter"]
        assert sha256(weights) in [file["sha256"] for file in adapter["files"]]
        assert [file["name"] for file in gateway.asked[-1]["model"]["base"]["files"]] == [
            "config.json",
            "model.safetensors",
        ]
    assert control_plane.request("DELETE", f"/v1/models/{first}").status_code == 200
    assert is_error(ask(control_plane, first), 404, "model_not_found")
    assert ask(control_plane, second).status_code == 200


@pytest.mark.usefixtures("inference")
def test_an_alias_that_moves_takes_effect_on_the_next_request(
    control_plane: ControlPlane, gateway: StandInGateway
) -> None:
    for weights in (b"\x01", b"\x02"):
        model = tuned(control_plane, weights)
        moved = control_plane.request("PUT", "/v1/aliases/ft:support@prod", json={"model": model, "reason": "better"})
        assert moved.status_code == 200, moved.text
        assert ask(control_plane, "ft:support@prod").status_code == 200
        adapter = gateway.asked[-1]["model"]["adapter"]
        assert sha256(weights) in [file["sha256"] for file in adapter["files"]]
    assert is_error(ask(control_plane, "ft:support@prod", key="stranger"), 404, "model_not_found")
    assert is_error(ask(control_plane, "ft:nothing@prod"), 404, "model_not_found")


@pytest.mark.usefixtures("inference")
def test_a_model_of_another_project_is_as_unknown_as_one_that_never_was(
    control_plane: ControlPlane, gateway: StandInGateway
) -> None:
    name = tuned(control_plane, b"\x01")
    foreign, unknown = ask(control_plane, name, key="stranger"), ask(control_plane, "never-was", key="stranger")
    assert is_error(foreign, 404, "model_not_found")
    assert is_error(unknown, 404, "model_not_found")
    told = foreign.json()["error"]
    assert told | {"message": ""} == unknown.json()["error"] | {"message": ""}
    assert told["message"].replace(name, "X") == unknown.json()["error"]["message"].replace("never-was", "X")
    assert gateway.asked == []


@pytest.mark.usefixtures("inference")
def test_what_has_no_weights_is_refused_with_a_reason(control_plane: ControlPlane) -> None:
    shape = {"name": "only-a-shape", "config": TINY_CONFIG}
    assert control_plane.request("POST", "/v1/models", key="admin", json=shape).status_code == 200
    assert is_error(ask(control_plane, "only-a-shape"), 400, "model_has_no_weights")


@pytest.mark.usefixtures("inference")
def test_a_checkpoint_answers_under_the_name_it_is_listed_with(
    control_plane: ControlPlane, gateway: StandInGateway, inference: InferenceSide
) -> None:
    plane, training = control_plane, control_plane.claimed()
    for step, names in ((3, ADAPTER_FILES), (5, ("masters.safetensors",))):
        files = [training.put(f"{name} of {step}".encode(), name=name) for name in (*names, "manifest.json")]
        body = {"step": step, "manifest_sha256": files[-1].sha256, "files": [file.model_dump() for file in files]}
        assert training.post("checkpoints", body).status_code == 204
    listed = plane.request("GET", f"/v1/fine_tuning/jobs/{training.job_id}/checkpoints").json()["data"]
    name = {one["step_number"]: one["fine_tuned_model_checkpoint"] for one in listed}
    answered = ask(plane, name[3])
    assert (answered.status_code, answered.json()["model"]) == (200, name[3])
    sent = {file["name"]: file["sha256"] for file in gateway.asked[-1]["model"]["adapter"]["files"]}
    assert set(sent) == set(ADAPTER_FILES[:2])
    assert {inference.blob(digest).status_code for digest in sent.values()} == {200}
    assert inference.blob(sha256(b"optimizer.safetensors of 3")).status_code == 404
    assert is_error(ask(plane, name[5]), 400, "checkpoint_not_served")
    for unknown, key in ((name[3].replace("step-3", "step-4"), "member"), (name[3], "stranger")):
        assert is_error(ask(plane, unknown, key=key), 404, "model_not_found")


@pytest.mark.usefixtures("inference")
@pytest.mark.parametrize(
    ("field", "text", "param"),
    [
        ("messages", "[]", "messages"),
        ("messages", '"hello"', "messages"),
        ("messages", '[{"role": "nobody", "content": "x"}]', "messages.0.role"),
        ("messages", '[{"role": "user", "content": 3}]', "messages.0.content"),
        ("temperature", "-1", "temperature"),
        ("temperature", "NaN", "temperature"),
        ("temperature", '"hot"', "temperature"),
        ("top_p", "-0.1", "top_p"),
        ("max_tokens", "0", "max_tokens"),
        ("n", "100000", "n"),
        ("stop", "5", "stop"),
        ("stop", json.dumps(["x"] * 1000), "stop"),
        ("top_logprobs", "21", "top_logprobs"),
        ("top_logprobs", "5", "top_logprobs"),
        ("logit_bias", '{"5": NaN}', "logit_bias"),
        ("temprature", "1", "temprature"),
        ("model", '""', "model"),
    ],
)
def test_a_request_that_no_engine_could_take_is_refused_by_its_field(
    control_plane: ControlPlane, gateway: StandInGateway, field: str, text: str, param: str
) -> None:
    fields = {"model": '"tiny-llama"', "messages": '[{"role": "user", "content": "x"}]', field: text}
    content = "{" + ", ".join(f'"{name}": {value}' for name, value in fields.items()) + "}"
    refused = control_plane.request("POST", "/v1/chat/completions", content=content)
    assert is_error(refused, 400)
    assert refused.json()["error"]["param"] == param
    assert gateway.asked == []


def test_without_an_inference_worker_the_answer_says_how_to_get_one(control_plane: ControlPlane) -> None:
    refused = ask(control_plane)
    assert is_error(refused, 503, "no_inference_worker")
    assert "tunesmith-worker serve" in refused.json()["error"]["hint"]
    assert int(refused.headers["retry-after"]) >= 1


def test_a_worker_that_trains_is_asked_last_and_says_when_to_come_back(
    control_plane: ControlPlane, inference: InferenceSide, gateway: StandInGateway, another_gateway: StandInGateway
) -> None:
    inference.beat(doing="training")
    gateway.script = lambda _: refusal(503, "training_comes_first", "A job trains.", retry_after_seconds=15)
    refused = ask(control_plane)
    assert is_error(refused, 503, "training_comes_first")
    assert refused.headers["retry-after"] == "15"
    InferenceSide(control_plane, "inference-2", another_gateway)
    assert ask(control_plane).headers["x-tunesmith-served-by"] == "tunesmith/inference-2"
    assert len(gateway.asked) == 1


def test_the_worker_that_holds_the_base_is_asked_and_another_when_it_cannot(
    control_plane: ControlPlane, inference: InferenceSide, gateway: StandInGateway, another_gateway: StandInGateway
) -> None:
    holder = InferenceSide(control_plane, "inference-2", another_gateway)
    ask(control_plane)
    digest = control_plane.request("GET", "/v1/models/tiny-llama").json()["tunesmith"]["digest"]
    assert holder.beat(doing="serving", bases=[digest]).status_code == 204
    assert ask(control_plane).headers["x-tunesmith-served-by"] == "tunesmith/inference-2"
    another_gateway.script = lambda _: refusal(503, "inference_line_full")
    assert ask(control_plane).headers["x-tunesmith-served-by"] == "tunesmith/inference-1"
    assert inference.beat(doing="draining").status_code == 204
    assert is_error(ask(control_plane), 503, "inference_line_full")


def test_an_engine_elsewhere_is_asked_for_the_names_that_it_lists_alone(
    control_plane: ControlPlane, inference: InferenceSide
) -> None:
    inference.beat(doing="serving", names=["another"])
    assert is_error(ask(control_plane), 503, "no_inference_worker")
    inference.beat(doing="serving", names=["tiny-llama"])
    assert ask(control_plane).status_code == 200


@pytest.mark.usefixtures("inference")
def test_the_engines_own_refusals_reach_the_client_in_the_usual_shape(
    control_plane: ControlPlane, gateway: StandInGateway
) -> None:
    gateway.script = lambda _: refusal(400, "context_length_exceeded", "4,100 tokens; 4,096 fit.")
    refused = ask(control_plane, stream=True)
    assert is_error(refused, 400, "context_length_exceeded")
    gateway.script = lambda _: refusal(400, "adapter_of_another_base")
    assert is_error(ask(control_plane), 400, "adapter_of_another_base")
    gateway.script = lambda _: refusal(500, "")
    assert is_error(ask(control_plane), 503, "engine_lost")


@pytest.mark.usefixtures("inference")
def test_an_answer_that_breaks_off_ends_with_an_error_event_and_a_retry_works(
    control_plane: ControlPlane, gateway: StandInGateway
) -> None:
    piece = event(choices=[{"index": 0, "delta": {"content": "hel"}}])
    gateway.script = lambda _: [stream_head(), piece]
    last = events_of(ask(control_plane, stream=True))[-1]
    assert last["error"]["code"] == "inference_worker_silent"
    gateway.script = lambda _: [stream_head(), piece, event(error={"message": "It ended.", "code": "engine_lost"})]
    told = events_of(ask(control_plane, stream=True))
    assert set(told[-1]["error"]) == {"message", "type", "param", "code", "hint"}
    with control_plane.openai() as client, pytest.raises(openai.APIError, match="It ended"):
        list(
            client.chat.completions.create(model="tiny-llama", messages=[{"role": "user", "content": "x"}], stream=True)
        )
    gateway.script = lambda _: [line(status=200), b'{"choices": [']
    assert is_error(ask(control_plane), 503, "inference_worker_silent")
    gateway.script = answer
    assert ask(control_plane).status_code == 200


@pytest.mark.usefixtures("inference", "impatient")
def test_a_gateway_that_says_nothing_counts_as_gone(control_plane: ControlPlane, gateway: StandInGateway) -> None:
    gateway.script = lambda _: [HANG]
    refused = ask(control_plane)
    assert is_error(refused, 503, "inference_worker_silent")
    assert "retry-after" in refused.headers
    pause_seconds = 0.05
    alive = [line(waiting="the base"), pause_seconds] * round(1.2 * IMPATIENT_SECONDS / pause_seconds)
    gateway.script = lambda _: [*alive, *_whole()]
    assert ask(control_plane).status_code == 200  # slow, and alive
    gateway.script = lambda _: [stream_head(), HANG]
    assert events_of(ask(control_plane, stream=True))[-1]["error"]["code"] == "inference_worker_silent"


def _whole() -> list[bytes]:
    return [line(status=200), json.dumps({"choices": []}).encode()]


def test_a_gateway_that_is_not_there_or_has_started_again_counts_as_gone(
    control_plane: ControlPlane, inference: InferenceSide, gateway: StandInGateway
) -> None:
    secret, gateway.secret = gateway.secret, "that of another start"
    assert is_error(ask(control_plane), 503, "inference_worker_silent")
    gateway.secret = secret
    gateway.stop()
    assert is_error(ask(control_plane), 503, "inference_worker_silent")


@pytest.mark.usefixtures("inference")
def test_an_answer_that_nobody_waits_for_is_given_up(control_plane: ControlPlane, gateway: StandInGateway) -> None:
    gateway.script = lambda _: [*[piece for n in range(600) for piece in (line(waiting=str(n)), 0.05)]]
    with _sent(control_plane, {"stream": False}):
        eventually(lambda: gateway.asked)
    assert gateway.gone.wait(PATIENCE_SECONDS)


@pytest.mark.usefixtures("inference", "impatient")
def test_a_client_that_stops_reading_is_given_up(control_plane: ControlPlane, gateway: StandInGateway) -> None:
    piece = event(choices=[{"index": 0, "delta": {"content": "x" * 60_000}}])
    gateway.script = lambda _: [stream_head(), *[piece, 0.0] * 2000, DONE]
    with _sent(control_plane, {"stream": True}):
        assert gateway.gone.wait(PATIENCE_SECONDS)


def _sent(plane: ControlPlane, body: dict[str, object]) -> socket.socket:
    """A connection with a request on it, whose answer nobody reads."""
    content = json.dumps({"model": "tiny-llama", "messages": [{"role": "user", "content": "x"}], **body})
    host, port = plane.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {plane.keys['member']}\r\n"
    connection.sendall(f"{head}content-length: {len(content)}\r\n\r\n{content}".encode())
    return connection


def test_tokens_that_could_not_be_written_down_are_written_the_next_time(control_plane: ControlPlane) -> None:
    surprises = [RuntimeError("no thread"), OSError("no descriptor")]

    def fail(*_: object) -> None:
        if surprises:
            raise surprises.pop()

    async def count(database: Database) -> None:
        sqlalchemy.event.listen(database.engine.sync_engine, "before_cursor_execute", fail)
        counter = UsageCounter(database)
        counter.add("third", Used(requests=1, prompt_tokens=7, completion_tokens=5))
        for _ in range(3):
            await counter.flush()

    control_plane.run(count)
    query = "SELECT requests, prompt_tokens, completion_tokens FROM inference_usage WHERE project = 'third'"
    assert control_plane.sql(query) == [(1, 7, 5)]


@pytest.mark.usefixtures("inference")
def test_tokens_are_counted_whether_the_client_wants_to_see_them_or_not(
    control_plane: ControlPlane, gateway: StandInGateway
) -> None:
    hidden = events_of(ask(control_plane, key="stranger", stream=True))
    assert gateway.asked[-1]["body"]["stream_options"] == {"include_usage": True}
    assert all("usage" not in chunk or not chunk["usage"] for chunk in hidden[:-1])
    shown = events_of(ask(control_plane, key="stranger", stream=True, stream_options={"include_usage": True}))
    assert shown[-2]["usage"] == USAGE
    ask(control_plane, key="stranger")  # whom no other test lets ask
    query = "SELECT requests, prompt_tokens, completion_tokens FROM inference_usage WHERE project = 'other'"
    eventually(
        lambda: control_plane.sql(query) == [(3, 21, 15)], seconds=30, what=lambda: str(control_plane.sql(query))
    )
    metrics = control_plane.request("GET", "/metrics", key="admin").text
    assert 'tunesmith_inference_tokens_total{kind="prompt"}' in metrics
    assert 'tunesmith_inference_workers{doing="ready",engine="tunesmith"} 1.0' in metrics
