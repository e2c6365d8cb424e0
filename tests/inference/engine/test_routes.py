"""OpenAI's routes: answers, streams, errors, and who is let in."""

import asyncio
import json
import math
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.inference.engine.asking import Asker, sha256, write_adapter
from tunesmith.worker.inference.engine.answering.prompts import Prompts
from tunesmith.worker.inference.engine.compute.model import BatchModel
from tunesmith.worker.inference.engine.web.app import create_app
from tunesmith.worker.inference.engine.web.conversation import Served

KEY = "of-this-engine"
HELLO = [{"role": "user", "content": "What is the capital of France?"}]


class Site:
    """The routes over an engine that steps beside them."""

    def __init__(self, asker: Asker, model: BatchModel, base: Path) -> None:
        self.engine = asker.engine
        self.served = Served(
            asker.engine,
            Prompts(base, today=lambda: date(2026, 1, 1)),
            name="base",
            vocabulary=model.vocabulary,
            clock=lambda: 1.0,
        )
        self.app = create_app(self.served, key=KEY)
        self.client = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(self.app),
            base_url="http://engine",
            headers={"authorization": f"Bearer {KEY}"},
        )

    async def step(self) -> None:
        while True:
            self.engine.step()
            await asyncio.sleep(0)

    async def post(self, path: str, **body: Any) -> httpx2.Response:
        return await self.client.post(path, content=json.dumps(body))

    async def chat(self, **body: Any) -> httpx2.Response:
        return await self.post("/v1/chat/completions", **{"model": "a0", "messages": HELLO, "max_tokens": 8, **body})


@pytest.fixture
def site(asker: Asker, model: BatchModel, base: Path) -> Site:
    return Site(asker, model, base)


def run(site: Site, work: Any) -> Any:
    """Asks while the engine steps."""

    async def beside() -> Any:
        stepping = asyncio.create_task(site.step())
        try:
            return await asyncio.wait_for(work(), 60)
        finally:
            stepping.cancel()
            await site.client.aclose()

    return asyncio.run(beside())


async def until(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110 - the engine has no event for it, and steps beside
        await asyncio.sleep(0)


def events(response: httpx2.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_chat_is_answered_in_openais_shape(site: Site) -> None:
    answer = run(site, lambda: site.chat(temperature=0)).json()
    assert (answer["object"], answer["model"]) == ("chat.completion", "a0")
    choice = answer["choices"][0]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] in ("stop", "length")
    assert answer["usage"]["completion_tokens"] <= 8
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]


@pytest.mark.parametrize("tools", [None, [{"type": "function", "function": {"name": "time"}}]])
def test_a_stream_says_the_same_and_ends_with_its_usage(site: Site, tools: list[Any] | None) -> None:
    async def both() -> tuple[Any, httpx2.Response]:
        asked = {"temperature": 0, "logprobs": True, "top_logprobs": 2, "tools": tools}
        whole = await site.chat(**asked)
        return whole.json(), await site.chat(**asked, stream=True, stream_options={"include_usage": True})

    whole, streamed = run(site, both)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    *chunks, last = events(streamed)
    deltas = [chunk["choices"][0] for chunk in chunks]
    assert deltas[0]["delta"] == {"role": "assistant", "content": ""}
    said = "".join(delta["delta"].get("content") or "" for delta in deltas)
    assert said == whole["choices"][0]["message"]["content"]
    content = [entry for delta in deltas if delta["logprobs"] for entry in delta["logprobs"]["content"]]
    assert content == whole["choices"][0]["logprobs"]["content"]
    assert all(len(entry["top_logprobs"]) == 2 for entry in content)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == whole["usage"]["total_tokens"]


def test_an_answer_can_be_sent_back_as_it_came(site: Site) -> None:
    leftovers = {"refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": None}

    async def ask() -> list[httpx2.Response]:
        said = (await site.chat(temperature=0)).json()["choices"][0]["message"]
        go_on = {"role": "user", "content": "And of Spain?", "name": None}
        bare = {"role": "assistant", "content": said["content"]}
        return [
            await site.chat(temperature=0, messages=[*HELLO, sent, go_on], logprobs=True)
            for sent in (bare, said, said | leftovers)
        ]

    first, *others = [answer.json()["choices"] for answer in run(site, ask)]
    assert others == [first, first]


def test_choices_of_one_seed_differ_and_come_again(site: Site) -> None:
    async def twice() -> list[Any]:
        return [(await site.chat(n=3, seed=5, temperature=1.5)).json() for _ in range(2)]

    first, again = run(site, twice)
    texts = [choice["message"]["content"] for choice in first["choices"]]
    assert len(set(texts)) > 1
    assert texts == [choice["message"]["content"] for choice in again["choices"]]
    assert [choice["index"] for choice in first["choices"]] == [0, 1, 2]


def test_plain_completions_take_texts_and_tokens(site: Site) -> None:
    async def ask() -> Any:
        asked = {"model": "base", "max_tokens": 4, "temperature": 0, "logprobs": 1}
        text = await site.post("/v1/completions", prompt=["The quick", "0 1 2"], **asked)
        tokens = [list(site.served.prompts.of_text(prompt)) for prompt in ("The quick", "0 1 2")]
        return text.json(), (await site.post("/v1/completions", prompt=tokens, **asked)).json()

    text, tokens = run(site, ask)
    assert [choice["text"] for choice in text["choices"]] == [choice["text"] for choice in tokens["choices"]]
    logprobs = text["choices"][1]["logprobs"]
    assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) == len(logprobs["top_logprobs"])


def test_offsets_of_a_stream_go_on_where_its_last_piece_ended(site: Site) -> None:
    async def ask() -> Any:
        asked = {"model": "base", "prompt": "The quick", "max_tokens": 30, "temperature": 0, "logprobs": 2}
        whole = (await site.post("/v1/completions", **asked)).json()
        return whole, events(await site.post("/v1/completions", **asked, stream=True))

    whole, chunks = run(site, ask)
    pieces = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    streamed = {key: [one for piece in pieces for one in piece[key]] for key in pieces[0]}
    assert streamed == whole["choices"][0]["logprobs"]
    assert all(len(likeliest) == 2 for likeliest in streamed["top_logprobs"])


def test_a_prompt_of_several_choices_counts_once_cached_or_not(site: Site) -> None:
    long = [{"role": "user", "content": "What is the capital of France? " * 20}]

    async def ask() -> list[Any]:
        asked = {"messages": long, "n": 6, "max_tokens": 3}
        return [(await site.chat(**asked)).json()["usage"] for _ in range(2)]

    for usage in run(site, ask):
        assert usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]


def test_the_adapter_in_a_request_is_the_one_that_answers(site: Site) -> None:
    async def ask() -> list[str]:
        asked = [site.chat(model=name, temperature=0, max_tokens=12) for name in ("base", "a0", "a1", "a2")]
        return [answer.json()["choices"][0]["message"]["content"] for answer in await asyncio.gather(*asked)]

    assert len(set(run(site, ask))) == 4


@pytest.mark.parametrize(
    ("change", "param", "status", "code"),
    [
        ({"model": "nobody"}, "model", 404, "model_not_found"),
        ({"temperature": -0.1}, "temperature", 400, "invalid_value"),
        ({"temperature": math.nan}, "temperature", 400, "invalid_value"),
        ({"top_p": 0}, "top_p", 400, "invalid_value"),
        ({"top_k": "many"}, "top_k", 400, "invalid_value"),
        ({"n": 17}, "n", 400, "invalid_value"),
        ({"stop": ["x"] * 1000}, "stop", 400, "invalid_value"),
        ({"stop": "x" * 257}, "stop", 400, "invalid_value"),
        ({"stop": [""]}, "stop", 400, "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", 400, "invalid_value"),
        ({"max_tokens": 5000}, "max_tokens", 400, "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "one " * 3000}]}, "messages", 400, "context_length_exceeded"),
        ({"messages": []}, "messages", 400, "invalid_value"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages", 400, "invalid_value"),
        ({"messages": None}, "messages", 400, "invalid_value"),
        ({"logit_bias": {"99999": 1}}, "logit_bias", 400, "invalid_value"),
        ({"response_format": {"type": "json_object"}}, "response_format", 400, "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", 400, "invalid_value"),
        ({"max_completion_tokens": 5000}, "max_completion_tokens", 400, "context_length_exceeded"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs", 400, "invalid_value"),
        ({"min_p": 1.5}, "min_p", 400, "invalid_value"),
    ],
)
def test_what_cannot_be_answered_names_its_field(
    site: Site, change: dict[str, Any], param: str, status: int, code: str
) -> None:
    answer = run(site, lambda: site.chat(**change))
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (status, param, code)
    assert error["message"].endswith(".")
    assert site.engine.is_idle


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"[" * 100_000])
def test_a_body_that_is_no_object_of_json_is_refused(site: Site, body: bytes) -> None:
    answer = run(site, lambda: site.client.post("/v1/chat/completions", content=body))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("header", [None, "Bearer wrong", KEY, "Bearer "])
def test_only_the_key_opens_the_routes(site: Site, header: str | None) -> None:
    async def ask() -> list[int]:
        headers = {} if header is None else {"authorization": header}
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(site.app), base_url="http://engine") as stranger:
            return [(await stranger.get(path, headers=headers)).status_code for path in ("/v1/models", "/health")]

    assert run(site, ask) == [401, 200]


def test_adapters_are_listed_loaded_and_unloaded(site: Site, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "late", seed=77)

    async def work() -> list[Any]:
        late = {"model": "late"}
        before = await site.chat(**late)
        loaded = await site.post(
            "/v1/load_lora_adapter", lora_name="late", lora_path=str(folder), sha256=sha256(folder)
        )
        listed = (await site.client.get("/v1/models")).json()["data"]
        answered = await site.chat(**late)
        unloaded = await site.post("/v1/unload_lora_adapter", lora_name="late")
        return [before, loaded, listed, answered, unloaded, await site.chat(**late)]

    before, loaded, listed, answered, unloaded, after = run(site, work)
    assert [answer.status_code for answer in (before, loaded, answered, unloaded, after)] == [404, 200, 200, 200, 404]
    assert {"base", "a0", "late"} <= {model["id"] for model in listed}


def test_a_template_that_refuses_ends_its_request_alone(site: Site, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "strict", seed=78)
    (folder / "chat_template.jinja").write_text("{{ raise_exception('never') }}")

    async def work() -> list[httpx2.Response]:
        await site.post("/v1/load_lora_adapter", lora_name="strict", lora_path=str(folder))
        return list(await asyncio.gather(site.chat(model="strict"), site.chat(model="a1")))

    refused, answered = run(site, work)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "chat_template_error")
    assert "never" in refused.json()["error"]["message"]
    assert answered.status_code == 200


def test_a_client_that_goes_away_takes_its_sequence_with_it(site: Site) -> None:
    async def work() -> int:
        asking = asyncio.create_task(_leaving(site))
        await until(lambda: site.engine.counts()["active"])
        left_after = await asking
        assert left_after > 1
        for _ in range(20):
            await asyncio.sleep(0)
        return site.engine.counts()["active"]

    assert run(site, work) == 0


async def _leaving(site: Site) -> int:
    """Asks for a long stream, reads three pieces and hangs up; returns how many came."""
    body = json.dumps({"model": "a0", "messages": HELLO, "max_tokens": 1500, "stream": True}).encode()
    arrived = 0
    hung_up = asyncio.Event()
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        try:
            return next(messages)
        except StopIteration:
            await hung_up.wait()
            return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal arrived
        arrived += message["type"] == "http.response.body"
        if arrived == 3:
            hung_up.set()

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {KEY}".encode())],
        "http_version": "1.1",
        "asgi": {"version": "3.0"},
    }
    await site.app(scope, receive, send)
    return arrived


def test_whoever_comes_when_the_line_is_full_is_told_when_to_come_again(
    asker: Asker, model: BatchModel, base: Path, new_asker: Any
) -> None:
    site = Site(new_asker(sequences=1, waiting=2), model, base)

    async def work() -> list[httpx2.Response]:
        return list(await asyncio.gather(*(site.chat(max_tokens=20) for _ in range(6))))

    answers = run(site, work)
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 429, 429, 429]
    assert all(int(answer.headers["retry-after"]) > 0 for answer in answers if answer.status_code == 429)


def test_an_engine_that_is_about_to_end_finishes_what_is_under_way(site: Site) -> None:
    async def work() -> list[httpx2.Response]:
        begun = asyncio.create_task(site.chat(max_tokens=40))
        await until(lambda: not site.engine.is_idle)
        site.engine.drain()
        return [await site.chat(), await site.client.get("/health"), await begun]

    late, health, begun = run(site, work)
    assert [answer.status_code for answer in (late, health, begun)] == [503, 503, 200]
    assert late.headers["retry-after"]
