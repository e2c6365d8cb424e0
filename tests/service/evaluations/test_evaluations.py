"""Evaluations are jobs of their own kind: created, claimed, fenced and ended as training is, and judged at the end."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from tests.command import Run, in_process
from tests.control_plane import AttemptSide, ControlPlane, chat_rows
from tests.waiting import eventually
from tunesmith.service.database.transactions import Database
from tunesmith.service.evaluations.compare import Contest, compare
from tunesmith.service.planning.corrections import MeasuredCorrections, measured_corrections
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Category, Failure, InvalidRequest, NotFound
from tunesmith.tuning.evaluation import ROWS_FILE
from tunesmith.tuning.gate.verdict import GateRule, Verdict
from tunesmith.tuning.state import Outcome
from tunesmith.tuning.values.json_objects import Json

EXACT = {"type": "exact"}


def tuned(plane: ControlPlane) -> str:
    """The name of a fine-tuned model."""
    attempt = plane.claimed()
    attempt.succeed()
    return str(plane.job(attempt.job_id)["fine_tuned_model"])


def command(plane: ControlPlane) -> Run:
    service = {"TUNESMITH_URL": plane.url, "TUNESMITH_API_KEY": plane.keys["member"]}
    return in_process({"PATH": os.environ["PATH"], **service})


def post(plane: ControlPlane, *, key: str = "member", **fields: Any) -> Json:
    body = {"file": fields.pop("file", None) or plane.upload(key=key), **fields}
    response = plane.request("POST", "/v1/evaluations", key=key, json=body)
    return {"status_code": response.status_code, **response.json()}


def created(plane: ControlPlane, **fields: Any) -> Json:
    found = post(plane, **fields)
    assert found["status_code"] == 200, found
    return found


def get(plane: ControlPlane, evaluation_id: str, part: str = "", *, key: str = "member") -> Json:
    return dict(plane.request("GET", f"/v1/evaluations/{evaluation_id}{part}", key=key).json())


def claimed(plane: ControlPlane, evaluation: Json) -> AttemptSide:
    attempt = plane.worker().claim()
    assert attempt is not None
    assert attempt.job_id == evaluation["id"]
    return attempt


def side(loss: float, *, hit: bool | None = None) -> Json:
    answer = {} if hit is None else {"answer": "right" if hit else "wrong", "finished": True, "hit": hit}
    return {"loss": loss, "correct": 3, "tokens": 10, **answer}


def rows(gaps: list[float]) -> list[Json]:
    """The model's loss a token is so much below the other's."""
    return [
        {"line": line, "model": side(20 - 10 * gap + line % 3), "against": side(20 + line % 3)}
        for line, gap in enumerate(gaps, start=1)
    ]


def hand_over(attempt: AttemptSide, lines: list[Json] | bytes) -> int:
    content = lines if isinstance(lines, bytes) else "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = attempt.put(content, name=ROWS_FILE)
    assert attempt.post("artifacts", {"kind": "evaluation", "files": [file.model_dump()]}).status_code == 204
    return attempt.finish(Outcome.SUCCEEDED).status_code


def test_a_tuned_model_is_measured_beside_its_base_and_the_verdict_is_kept(control_plane: ControlPlane) -> None:
    plane = control_plane
    name = tuned(plane)
    evaluation = created(plane, model=name, against="base", rows=15)
    assert (evaluation["status"], evaluation["against"], evaluation["rows"]) == ("queued", "tiny-llama", 15)
    attempt = claimed(plane, evaluation)
    claim = attempt.claim
    assert claim.spec.evaluation is not None
    assert (claim.base_model.name, claim.base_model.adapter_of) == (name, "tiny-llama")
    assert claim.against is not None
    assert (claim.against.name, claim.against.adapter_of) == ("tiny-llama", None)
    for ref in (claim.base_model, claim.against):
        for file in (*ref.files, *ref.base_files):
            assert attempt.get(file.sha256).status_code == 200
    assert attempt.get(claim.training_file.sha256).content == chat_rows()
    assert hand_over(attempt, rows([0.4, 0.5] * 12)) == 204

    found = get(plane, evaluation["id"])
    assert (found["status"], found["attempts"], found["error"]) == ("succeeded", 1, None)
    assert found["verdict"]["word"] == "better"
    assert found["measures"]["loss"] == pytest.approx(found["against_measures"]["loss"] - 0.45)
    assert plane.sql("SELECT candidate, word FROM gate_verdicts") == [(evaluation["id"], "better")]
    assert any("Verdict: better" in message for message in plane.messages(evaluation["id"]))
    assert plane.job(evaluation["id"])["fine_tuned_model"] is None


def test_whoever_waits_for_an_evaluation_hears_of_it_at_once_and_not_of_one_that_has_ended(
    control_plane: ControlPlane,
) -> None:
    plane = control_plane
    evaluation = created(plane, model="tiny-llama")
    path = f"/v1/evaluations/{evaluation['id']}"

    def ask(path: str, etag: str) -> httpx2.Response:
        return plane.request("GET", path, headers={"if-none-match": etag})

    etag = plane.request("GET", path).headers["etag"]
    assert ask(f"{path}?wait=0.2", etag).status_code == 304
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(ask, f"{path}?wait=60", etag)
        plane.request("POST", f"{path}/cancel").raise_for_status()
        ended = waiting.result(timeout=30)
    assert (ended.status_code, ended.json()["status"]) == (200, "cancelled")
    assert ask(f"{path}?wait=60", ended.headers["etag"]).status_code == 304  # at once: it stays so
    assert plane.request("GET", path, key="stranger").status_code == 404


def test_an_evaluation_in_line_says_what_it_waits_for_which_is_no_change_of_it(control_plane: ControlPlane) -> None:
    plane = control_plane
    busy = plane.claimed()
    plane.app.state.line.forget()  # what it waits for may be a second old
    evaluation = created(plane, model="tiny-llama")
    path = f"/v1/evaluations/{evaluation['id']}"
    first = plane.request("GET", path)
    waits = f"Waits for a free worker: 1 of 1 of class cpu-2-cores-16gib is busy with {busy.job_id}; "
    for told in (evaluation, first.json(), plane.request("GET", "/v1/evaluations").json()["data"][0]):
        assert told["waiting_reason"].startswith(waits)
    listed = plane.request("GET", "/v1/evaluations").headers["etag"]
    plane.create_job(tunesmith={"priority": 9})
    eventually(lambda: "1 job is ahead" in get(plane, evaluation["id"])["waiting_reason"], what="another place")
    for asked, etag in ((path, first.headers["etag"]), ("/v1/evaluations", listed), (f"{path}?wait=1.5", listed)):
        reply = plane.request("GET", asked, headers={"if-none-match": f"{etag}, {first.headers['etag']}"})
        assert reply.status_code == 304, asked
    plane.request("POST", f"{path}/cancel").raise_for_status()
    assert get(plane, evaluation["id"])["waiting_reason"] is None


def test_an_alias_is_the_model_that_it_stands_for_at_that_moment(control_plane: ControlPlane) -> None:
    first, second = tuned(control_plane), tuned(control_plane)
    for model in (first, second):
        control_plane.request("PUT", "/v1/aliases/ft:support@prod", json={"model": model}).raise_for_status()
        evaluation = created(control_plane, model="ft:support@prod", against="base", rows=15)
        assert (evaluation["model"], evaluation["against"]) == (model, "tiny-llama")
    assert created(control_plane, model=first, against="ft:support@prod")["against"] == second
    refused = post(control_plane, model=first, against="ft:support@staging")
    assert (refused["status_code"], refused["error"]["param"]) == (400, "against")


def test_rows_come_in_pages_in_the_order_of_the_file_or_the_worst_first(control_plane: ControlPlane) -> None:
    evaluation = created(control_plane, model=tuned(control_plane), against="base")
    hand_over(claimed(control_plane, evaluation), rows([0.1, -0.5, 0.3, 0.2]))
    first = get(control_plane, evaluation["id"], "/rows?limit=3")
    assert [row["line"] for row in first["data"]] == [1, 2, 3]
    assert first["has_more"]
    rest = get(control_plane, evaluation["id"], f"/rows?after={first['last_id']}")
    assert ([row["line"] for row in rest["data"]], rest["has_more"]) == ([4], False)
    worst = get(control_plane, evaluation["id"], "/rows?order=worst&limit=2")
    assert [row["line"] for row in worst["data"]] == [2, 1]
    assert [row["line"] for row in get(control_plane, evaluation["id"], "/rows?order=worst&after=1")["data"]] == [4, 3]
    assert get(control_plane, evaluation["id"], "/rows?after=99")["error"]["param"] == "after"


async def learned(database: Database) -> MeasuredCorrections:
    async with database.transaction() as session:
        return await measured_corrections(session)


def test_the_command_follows_an_evaluation_by_its_id_and_tells_what_it_does(control_plane: ControlPlane) -> None:
    run, model = command(control_plane), tuned(control_plane)
    evaluation = created(control_plane, model=model, against="base", rows=15)
    waiting = run("watch", evaluation["id"], "--timeout", "1s")
    assert (waiting.returncode, "number 1 in line" in waiting.stderr) == (5, True), waiting.stderr
    attempt = claimed(control_plane, evaluation)
    running = run("watch", evaluation["id"], "--timeout", "1s").stderr
    assert f"measures losses on 15 rows under {model} and under tiny-llama" in running
    assert "full" not in running
    assert "training" not in running
    hand_over(attempt, rows([0.1, -0.5, 0.3, 0.2]))
    ended = run("watch", evaluation["id"])
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "verdict     " in ended.stderr
    shown = run("get", evaluation["id"]).stdout
    assert shown.startswith(f"{evaluation['id']}  succeeded\n")
    assert "verdict     " in shown


def test_an_evaluation_is_no_fine_tuning_job_to_lists_and_lessons(control_plane: ControlPlane) -> None:
    plane = control_plane
    evaluation = created(plane, model="tiny-llama")
    attempt = claimed(plane, evaluation)
    attempt.metrics([{"step": 1, "total_steps": 20}])
    assert hand_over(attempt, [{"line": 1, "model": side(2.0)}]) == 204
    assert not any(message.startswith("Step") for message in plane.messages(evaluation["id"]))
    assert plane.request("GET", "/v1/fine_tuning/jobs").json()["data"] == []
    assert plane.run(learned).by_kind == {}, "no plan of training is corrected by it"
    assert plane.request("GET", "/v1/fine_tuning/plans/accuracy").json()["data"] == []
    assert [one["id"] for one in plane.request("GET", "/v1/evaluations").json()["data"]] == [evaluation["id"]]
    found = get(plane, evaluation["id"])
    assert (found["verdict"], found["against_measures"]) == (None, None), "it was compared with nobody"
    assert get(plane, evaluation["id"], key="stranger")["error"]["code"] == ErrorCode.EVALUATION_NOT_FOUND


def test_a_checkpoint_can_be_measured_and_only_its_weights_are_fetched(control_plane: ControlPlane) -> None:
    plane = control_plane
    training = plane.claimed()
    names = ["adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors", "manifest.json"]
    files = [training.put(f"{name} of step 3".encode(), name=name) for name in names]
    body = {"step": 3, "manifest_sha256": files[-1].sha256, "files": [file.model_dump() for file in files]}
    assert training.post("checkpoints", body).status_code == 204
    training.checkpoint(5)
    training.succeed()
    listed = plane.request("GET", f"/v1/fine_tuning/jobs/{training.job_id}/checkpoints").json()["data"]
    name = {one["step_number"]: one["fine_tuned_model_checkpoint"] for one in listed}
    evaluation = created(plane, model=name[3], against="base")
    assert (evaluation["model"], evaluation["against"]) == (name[3], "tiny-llama")
    claim = claimed(plane, evaluation).claim
    assert {file.name for file in claim.base_model.files} == set(names[:2])
    assert claim.base_model.adapter_of == "tiny-llama"
    refused = post(plane, model=name[5])
    assert (refused["status_code"], refused["error"]["code"]) == (400, ErrorCode.MODEL_HAS_NO_WEIGHTS)
    assert post(plane, model=name[3].replace("step-3", "step-4"))["status_code"] == 404


def test_models_of_others_and_none_at_all_look_the_same(control_plane: ControlPlane) -> None:
    name = tuned(control_plane)
    for body in ({"model": name}, {"model": "tiny-llama", "against": name}, {"model": f"{name}:ckpt-step-1"}):
        refused = post(control_plane, key="stranger", **body)
        assert (refused["status_code"], refused["error"]["code"]) == (404, ErrorCode.MODEL_NOT_FOUND)
        param = "against" if "against" in body else "model"
        assert refused["error"]["param"] == param
    assert post(control_plane, model="none")["status_code"] == 404


@pytest.mark.parametrize(
    ("body", "rows", "param"),
    [
        ({"score": {"type": "regex", "pattern": "(a"}}, None, "score.pattern"),
        ({"score": {"type": "regex", "pattern": r"(a)\1"}}, None, "score.pattern"),
        ({"score": {"type": "json_schema", "json_schema": {"type": "thing"}}}, None, "score.json_schema"),
        ({"score": {"type": "choice", "labels": []}}, None, "score.labels"),
        ({"score": {"type": "choice"}}, None, "score.labels"),
        ({"against": "base"}, None, "against"),
        ({"gate": {"decide_by": "score"}}, None, "gate.decide_by"),
        ({"gate": {"confidence": 2}}, None, "gate.confidence"),
        ({"rows": 0}, None, "rows"),
        ({}, b"", "file"),
        ({}, b'{"messages": [{"role": "user", "content": "hi"}]}\n', "file"),
        ({}, b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n', "file"),
        ({"score": EXACT}, b'{"text": "plain"}\n', "score"),
        ({"file": "file-none"}, None, "file"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_with_its_field(
    control_plane: ControlPlane, body: Json, rows: bytes | None, param: str
) -> None:
    fields = {"model": "tiny-llama", **body}
    if rows is not None:
        fields["file"] = control_plane.upload(rows)
    refused = post(control_plane, **fields)
    assert (refused["status_code"], refused["error"]["param"]) == (400, param), refused


def test_a_file_that_is_for_something_else_is_refused(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    attempt.succeed()
    (numbers,) = control_plane.job(attempt.job_id)["result_files"]
    refused = post(control_plane, model="tiny-llama", file=numbers)
    assert (refused["status_code"], refused["error"]["code"]) == (400, "invalid_file_purpose"), refused


def test_a_model_stays_while_an_evaluation_needs_it(control_plane: ControlPlane) -> None:
    plane = control_plane
    name = tuned(plane)
    evaluation = created(plane, model="tiny-llama", against=name)
    refused = plane.request("DELETE", f"/v1/models/{name}")
    assert refused.json()["error"]["code"] == ErrorCode.MODEL_IN_USE
    assert plane.request("POST", f"/v1/evaluations/{evaluation['id']}/cancel").json()["status"] == "cancelled"
    assert plane.request("DELETE", f"/v1/models/{name}").status_code == 200
    assert get(plane, evaluation["id"])["verdict"]["word"] == "no verdict"


def test_an_evaluation_whose_checkpoint_has_gone_fails_at_its_claim_with_the_reason(
    control_plane: ControlPlane,
) -> None:
    plane = control_plane
    training = plane.claimed()
    files = [training.put(name.encode(), name=name) for name in ("masters.safetensors", "manifest.json")]
    body = {"step": 3, "manifest_sha256": files[-1].sha256, "files": [file.model_dump() for file in files]}
    assert training.post("checkpoints", body).status_code == 204
    listed = plane.request("GET", f"/v1/fine_tuning/jobs/{training.job_id}/checkpoints").json()["data"]
    evaluation = created(plane, model=listed[0]["fine_tuned_model_checkpoint"], against="base")
    plane.sql("UPDATE checkpoints SET files = '[]'")
    assert plane.worker("worker-2").claim() is None
    found = get(plane, evaluation["id"])
    assert (found["status"], found["error"]["code"]) == ("failed", ErrorCode.MODEL_HAS_NO_WEIGHTS)
    assert found["verdict"]["word"] == "no verdict"


def test_rows_that_cannot_be_read_are_a_failure_that_is_tried_again(control_plane: ControlPlane) -> None:
    evaluation = created(control_plane, model="tiny-llama")
    for left in (b"not json\n", b"", b'{"line": 1, "model": {"loss": 1e999, "correct": 0, "tokens": 1}}\n'):
        control_plane.sql("UPDATE jobs SET not_before = now()")
        assert hand_over(claimed(control_plane, evaluation), left or b"\n\n") == 204
        messages = control_plane.messages(evaluation["id"])
        assert "Trying again" in messages[-1]
        assert ROWS_FILE in messages[-1]


def test_an_evaluation_that_crashes_fails_with_its_reason_and_has_no_verdict(control_plane: ControlPlane) -> None:
    evaluation = created(control_plane, model=tuned(control_plane), against="base")
    failure = Failure(code=ErrorCode.BROKEN_MODEL, message="It is broken.", category=Category.USER_ERROR)
    assert claimed(control_plane, evaluation).finish(Outcome.FAILED, failure=failure).status_code == 204
    found = get(control_plane, evaluation["id"])
    assert (found["status"], found["error"]["message"]) == ("failed", "It is broken.")
    assert (found["verdict"]["word"], "It is broken." in found["verdict"]["text"]) == ("no verdict", True)


def test_a_lost_worker_s_evaluation_is_another_s_and_the_first_writes_no_more(control_plane: ControlPlane) -> None:
    evaluation = created(control_plane, model="tiny-llama")
    first = claimed(control_plane, evaluation)
    again = control_plane.worker().claim()
    assert again is not None
    assert (again.job_id, again.claim.epoch) == (evaluation["id"], 2)
    assert hand_over_refused(first)
    assert hand_over(again, [{"line": 1, "model": side(2.0)}]) == 204


def hand_over_refused(attempt: AttemptSide) -> bool:
    return attempt.finish(Outcome.SUCCEEDED).status_code == 409


def test_the_same_request_finds_the_first_evaluation(control_plane: ControlPlane) -> None:
    file = control_plane.upload()
    body = {"model": "tiny-llama", "file": file}
    headers = {"idempotency-key": "one"}
    first, second = (
        control_plane.request("POST", "/v1/evaluations", json=body, headers=headers).json() for _ in range(2)
    )
    assert first["id"] == second["id"]
    assert post(control_plane, model="tiny-llama", file=file)["id"] != first["id"]


def judged(plane: ControlPlane, contest: Contest, **options: Any) -> Verdict:
    async def work(database: Database) -> Verdict:
        async with database.transaction() as session:
            return await compare(session, contest, project="acme", rule=GateRule(), **options)

    return plane.run(work)


def done(plane: ControlPlane, gap: float, *, file: str, **fields: Any) -> str:
    """An evaluation of the base alone whose loss is so much below 2 on 24 rows."""
    evaluation = created(plane, model="tiny-llama", file=file, **fields)
    lines = [{"line": line, "model": side(20 - 10 * gap - 0.1 * (line % 2))} for line in range(1, 25)]
    assert hand_over(claimed(plane, evaluation), lines) == 204
    return str(evaluation["id"])


def test_two_evaluations_of_the_same_rows_are_compared_with_guard_rails(control_plane: ControlPlane) -> None:
    plane = control_plane
    file, rails = plane.upload(), plane.upload(chat_rows(30))
    champion, candidate = done(plane, 0.0, file=file), done(plane, 0.3, file=file)
    old, broken = done(plane, 0.0, file=rails), done(plane, -0.2, file=rails)
    assert judged(plane, Contest(candidate, champion)).word == "better"
    guards = {"old rows": Contest(broken, old)}
    verdict = judged(plane, Contest(candidate, champion), guards=guards)
    assert (verdict.word, verdict.guards[0].holds) == ("worse", False)
    stored = plane.sql("SELECT word, verdict FROM gate_verdicts ORDER BY id")
    assert [row[0] for row in stored] == ["better", "worse"]
    assert Verdict.model_validate(stored[1][1]) == verdict
    body = {"champion": champion, "guards": {"old rows": {"candidate": broken, "champion": old}}}
    asked = plane.request("POST", f"/v1/evaluations/{candidate}/verdict", json=body).json()
    assert (asked["word"], asked["guards"][0]["name"], asked["champion"]) == ("worse", "old rows", champion)
    foreign = plane.request("POST", f"/v1/evaluations/{candidate}/verdict", json=body, key="stranger")
    assert foreign.json()["error"]["code"] == ErrorCode.EVALUATION_NOT_FOUND


def test_what_cannot_be_compared_is_said(control_plane: ControlPlane) -> None:
    plane = control_plane
    file = plane.upload()
    one, other = done(plane, 0.0, file=file), done(plane, 0.0, file=plane.upload(chat_rows(30)))
    scored = done(plane, 0.0, file=file, score=EXACT)
    waiting = created(plane, model="tiny-llama", file=file)["id"]
    for contest, reason in (
        (Contest(one, scored), "other rules"),
        (Contest(one, other), "other rows"),
        (Contest(one), "one model alone"),
        (Contest(one, waiting), "is queued"),
    ):
        with pytest.raises(InvalidRequest, match=reason) as refused:
            judged(plane, contest)
        assert refused.value.code == ErrorCode.CANNOT_COMPARE
    with pytest.raises(NotFound):
        judged(plane, Contest(one, "eval-none"))
    plane.request("POST", f"/v1/evaluations/{waiting}/cancel")
    assert judged(plane, Contest(one, waiting)).word == "no verdict"


def test_the_report_is_one_page_that_loads_nothing_and_escapes_everything(control_plane: ControlPlane) -> None:
    plane = control_plane
    evaluation = created(plane, model=tuned(plane), against="base", score=EXACT)
    lines = rows([0.4, 0.5] * 12)
    for line in lines:
        line["model"] |= side(10, hit=True)
        line["against"] |= side(20, hit=line["line"] % 2 == 0)
        line["expected"] = "<script>alert(1)</script>"
    hand_over(claimed(plane, evaluation), lines)
    response = plane.request("GET", f"/v1/evaluations/{evaluation['id']}/report")
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    page = response.text
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not any(word in page for word in ("http:", "https:", "src=", "@import", "url("))
    assert "better" in page
    assert page.count("<article>") == 24, "the worst, and those that speak most for it"
