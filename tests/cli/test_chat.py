"""`tunesmith chat`: an answer on stdout, two side by side, and clear endings, against a scripted service."""

import io
import json
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.command import Run, in_process
from tests.worker.scripted_service import Reply, Request, ScriptedService
from tunesmith.cli.exit_codes import ExitCode
from tunesmith.tuning.values.json_objects import Json

Ask = Callable[..., Run]


@pytest.fixture
def service() -> Iterator[ScriptedService]:
    with ScriptedService() as scripted:
        scripted.otherwise = answers
        yield scripted


@pytest.fixture
def run(service: ScriptedService) -> Run:
    """The command, connected; nobody sits at its standard input."""
    return in_process({"TUNESMITH_URL": f"{service.url}/v1", "TUNESMITH_API_KEY": "ts-key"})


def answers(request: Request) -> Reply:
    """Each model says who it is and how much was said before."""
    asked = request.json
    words = [f"{asked['model']} ", f"heard {len(asked['messages'])}: ", asked["messages"][-1]["content"]]
    return Reply(200, b"".join([*(chunk(word, asked) for word in words), b"data: [DONE]\n\n"]))


def chunk(word: str, asked: Json) -> bytes:
    choice: Json = {"index": 0, "delta": {"content": word}}
    if asked.get("logprobs"):
        choice["logprobs"] = {"content": [{"token": word, "logprob": -0.1}]}
    return b": a comment\n\ndata: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def test_one_question_is_answered_on_stdout(run: Run, service: ScriptedService) -> None:
    options = ("--temperature", "0", "--max-tokens", "5", "--seed", "7", "--system", "Be brief.")
    told = run("chat", "tiny", "-m", "Who?", *options)
    assert (told.returncode, told.stdout, told.stderr) == (0, "tiny heard 2: Who?\n", "")
    (request,) = service.requests
    assert request.path == "/v1/chat/completions"
    assert request.json == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}],
        "temperature": 0,
        "max_tokens": 5,
        "seed": 7,
        "stream": True,
    }


def test_a_question_may_come_through_a_pipe(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Who?\n"))
    assert run("chat", "tiny").stdout == "tiny heard 1: Who?\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("  \n"))
    assert run("chat", "tiny").returncode == ExitCode.USAGE


def test_what_an_answer_waits_for_is_told_beside_it(run: Run, service: ScriptedService) -> None:
    waits = b": waiting: the base tiny is loaded\n\n"
    service.script("/chat/completions", Reply(200, waits + chunk("Yes.", {}) + b"data: [DONE]\n\n"))
    told = run("chat", "tiny", "-m", "Who?")
    assert (told.stdout, told.stderr) == ("Yes.\n", "waiting: the base tiny is loaded\n")


def test_two_models_are_shown_beside_each_other(run: Run) -> None:
    told = run("chat", "tuned", "--compare", "tiny", "-m", "Who?").stdout
    assert told == "== tuned\ntuned heard 1: Who?\n== tiny\ntiny heard 1: Who?\n"


def test_probabilities_are_shown_token_by_token(run: Run) -> None:
    assert run("chat", "tiny", "-m", "x", "--probabilities").stdout.splitlines()[0] == "0.905  'tiny '"


def test_a_talk_remembers_what_was_said_until_it_begins_anew(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(["one", "", "two", "/reset", "three", "/quit"])
    monkeypatch.setattr("builtins.input", lambda _prompt: next(lines))
    monkeypatch.setattr(sys, "stdin", Terminal())
    told = run("chat", "tiny")
    assert (told.returncode, told.stdout) == (0, "tiny heard 1: one\ntiny heard 3: two\ntiny heard 1: three\n")


def test_a_talk_goes_on_after_a_refusal(run: Run, service: ScriptedService, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(["one", "two"])
    monkeypatch.setattr("builtins.input", lambda _prompt: next(lines, None) or _end())
    monkeypatch.setattr(sys, "stdin", Terminal())
    service.script("/chat/completions", refusal(503, "training_comes_first"))
    told = run("chat", "tiny")
    assert (told.returncode, told.stdout) == (0, "tiny heard 1: two\n")
    assert "No, for a reason." in told.stderr


@pytest.mark.parametrize(
    ("status", "code", "exits"),
    [
        (404, "model_not_found", ExitCode.NOT_FOUND),
        (400, "context_length_exceeded", ExitCode.REJECTED),
        (401, "invalid_api_key", ExitCode.NOT_ALLOWED),
        (503, "training_comes_first", ExitCode.UNREACHABLE),
    ],
)
def test_a_refusal_is_told_and_has_its_exit_code(
    run: Run, service: ScriptedService, status: int, code: str, exits: ExitCode
) -> None:
    service.script("/chat/completions", refusal(status, code))
    told = run("chat", "tiny", "-m", "x")
    assert told.returncode == exits
    assert "No, for a reason." in told.stderr


def test_an_answer_that_breaks_off_is_a_failure(run: Run, service: ScriptedService) -> None:
    begun = chunk("hel", {})
    broken = b'data: {"error": {"message": "The engine ended.", "code": "engine_lost"}}\n\n'
    service.script("/chat/completions", Reply(200, begun + broken), Reply(200, begun))
    for reason in ("The engine ended.", "broke off"):
        told = run("chat", "tiny", "-m", "x")
        assert (told.returncode, told.stdout) == (ExitCode.UNREACHABLE, "hel")
        assert reason in told.stderr


def test_a_temperature_that_is_no_number_is_a_usage_error(run: Run) -> None:
    for wrong in ("nan", "-1", "3"):
        assert run("chat", "tiny", "-m", "x", "--temperature", wrong).returncode == ExitCode.USAGE


class Terminal(io.StringIO):
    """Somebody sits there."""

    def isatty(self) -> bool:
        return True


def refusal(status: int, code: str) -> Reply:
    body = {"error": {"message": "No, for a reason.", "code": code, "param": None, "hint": None, "type": "x"}}
    return Reply.json(body, status)


def _end() -> str:
    raise EOFError
