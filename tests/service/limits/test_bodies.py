"""No body, however it is made, holds up the requests of others."""

import asyncio
from contextlib import closing

import httpx2

from tests.control_plane import ControlPlane
from tests.service.limits.application import ask, connected, longest_gap
from tunesmith.service.app import create_app
from tunesmith.service.settings import Settings

JOBS, PLANS = "/v1/fine_tuning/jobs", "/v1/fine_tuning/plans"
LONGEST_GAP_SECONDS = 0.1  # without the limits it is seconds
MANY_KEYS = b"{" + b",".join(b'"k%d":1' % number for number in range(1_250_000)) + b"}"


def object_of(count: int) -> bytes:
    return b"{" + b",".join(b'"%d":1' % number for number in range(count)) + b"}"


HOSTILE = {
    "a million unknown keys": (MANY_KEYS, 413, "request_too_large"),
    "unknown keys up to the limit": (object_of(20_000), 400, "invalid_value"),
    "an unknown key among values that are wrong": (b'{"model": 1, "sed": 7}', 400, "unknown_parameter"),
    "an unknown key far below": (b'{"model": "m", "tunesmith": {"lora": {"rnk": 4}}}', 400, "unknown_parameter"),
    "one very long unknown key": (b'{"%s": 1}' % (b"k" * 200_000), 400, "unknown_parameter"),
    "empty objects": (b'{"integrations": [' + b",".join([b"{}"] * 80_000) + b"]}", 400, "invalid_value"),
    "lists in lists": (b'{"metadata": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "invalid_json"),
    "a number of many digits": (b'{"seed": ' + b"9" * 200_000 + b"}", 400, "invalid_json"),
}


def test_no_body_holds_up_other_requests(plane: ControlPlane, settings: Settings) -> None:
    app = create_app(settings)
    key = plane.keys["member"]

    async def attack() -> dict[str, tuple[float, list[httpx2.Response]]]:
        await ask(app, ("POST", JOBS, {"content": b"{}"}), ("POST", PLANS, {"content": b"{}"}), key=key)  # to warm up
        found = {}
        for what, (body, _status, _code) in HOSTILE.items():
            answers: list[httpx2.Response] = []

            async def send(body: bytes = body, answers: list[httpx2.Response] = answers) -> None:
                for path in (JOBS, PLANS):
                    answers += await ask(app, ("POST", path, {"content": body}), key=key)

            found[what] = await longest_gap(send()), answers
        return found

    for what, (gap, answers) in asyncio.run(attack()).items():
        for answer in answers:
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == HOSTILE[what][1:], what
            assert len(answer.content) < 1000, what
        assert gap < LONGEST_GAP_SECONDS, what


def test_a_body_that_announces_too_much_is_refused_before_it_is_sent(plane: ControlPlane) -> None:
    head = f"POST {JOBS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {plane.keys['member']}\r\n"
    with closing(connected(plane.url)) as line:
        line.sendall(f"{head}content-length: 12600000\r\n\r\n".encode())
        assert line.recv(4096).startswith(b"HTTP/1.1 413")


def test_workers_may_report_more_than_people_may_ask(plane: ControlPlane) -> None:
    body = b'{"points": "' + b"x" * (512 * 1024) + b'"}'
    assert plane.request("POST", "/internal/claims", key="worker", content=body).status_code == 400
    assert plane.request("POST", JOBS, content=body).status_code == 413


def test_rows_of_a_file_are_read_without_holding_up_other_requests(plane: ControlPlane, settings: Settings) -> None:
    row = b"[" + b",".join([b"[]"] * 600_000) + b"]\n"
    form = {"data": {"purpose": "fine-tune"}, "files": {"file": ("rows.jsonl", row * 5)}}
    app = create_app(settings)
    answers: list[httpx2.Response] = []

    async def attack() -> None:
        answers.extend(await ask(app, ("POST", "/v1/files", form), key=plane.keys["member"]))

    gap = asyncio.run(longest_gap(attack()))
    assert answers[0].json()["status"] == "error"
    assert gap < LONGEST_GAP_SECONDS


def test_the_document_is_made_without_holding_up_other_requests(plane: ControlPlane) -> None:
    app = create_app(plane.settings)
    work = ask(app, ("GET", "/openapi.json", {}), ("GET", "/docs", {}), key="none")
    assert asyncio.run(longest_gap(work)) < LONGEST_GAP_SECONDS
