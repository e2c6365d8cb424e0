"""What a job cannot be made of is refused when it is submitted: by code and field, with reason and next step."""

import json
import socket
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.control_plane import ControlPlane
from tests.service.test_reproduction import train

PREFERENCES = json.dumps({"prompt": "hi", "chosen": "hello", "rejected": "no"}).encode() + b"\n"


def refused(plane: ControlPlane, *, training_file: str | None = None, **fields: Any) -> Any:
    body = {"model": "tiny-llama", "training_file": training_file or plane.upload(), **fields}
    response = plane.request("POST", "/v1/fine_tuning/jobs", json=body)
    assert response.status_code == 400, response.text
    return response.json()["error"]


def tuned(plane: ControlPlane, **lora: Any) -> str:
    """The name of an adapter that a job made."""
    job_id = train(plane.claimed(tunesmith={"method": "lora", "lora": {"rank": 4, **lora}}))
    return str(plane.job(job_id)["fine_tuned_model"])


def test_preference_rows_in_a_supervised_job_name_the_line_and_the_method_to_choose(
    control_plane: ControlPlane,
) -> None:
    error = refused(control_plane, training_file=control_plane.upload(PREFERENCES * 9), method={"type": "supervised"})
    assert (error["code"], error["param"]) == ("invalid_training_file", "training_file")
    assert "Line 1 of file-" in error["message"]
    assert '"type": "dpo"' in error["hint"]


def test_conversations_in_a_preference_job_name_the_line_and_the_method_to_choose(control_plane: ControlPlane) -> None:
    error = refused(control_plane, method={"type": "dpo"})
    assert (error["code"], error["param"]) == ("invalid_training_file", "training_file")
    assert "Line 1 of file-" in error["message"]
    assert '"type": "supervised"' in error["hint"]


def test_a_validation_file_of_the_other_kind_is_blamed_by_its_own_name(control_plane: ControlPlane) -> None:
    error = refused(control_plane, validation_file=control_plane.upload(PREFERENCES * 9))
    assert error["param"] == "validation_file"


@pytest.mark.parametrize("method", ["auto", "lora", "qlora"])
def test_a_target_module_that_does_not_exist_is_answered_with_near_names(
    control_plane: ControlPlane, method: str
) -> None:
    ours = {"method": method, "lora": {"target_modules": ["q_proj", "dwn_proj"]}}
    error = refused(control_plane, tunesmith=ours)
    assert (error["code"], error["param"]) == ("no_such_target_modules", "tunesmith.lora.target_modules")
    assert "'dwn_proj'" in error["message"]
    assert "'q_proj'" not in error["message"]
    assert "Did you mean down_proj" in error["hint"]


def test_what_to_do_with_long_rows_is_one_of_two_words(control_plane: ControlPlane) -> None:
    assert refused(control_plane, tunesmith={"on_long_row": "cut"})["param"] == "tunesmith.on_long_row"
    attempt = control_plane.claimed(tunesmith={"on_long_row": "refuse", "on_dropped_content": "refuse"})
    assert attempt.claim.plan.on_long_row == "refuse"
    assert attempt.claim.spec.on_dropped_content == "refuse"


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "hi"}]},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "x", "weight": 0}]},
        {"prompt": "hi", "completion": ""},
    ],
)
def test_a_file_with_nothing_to_learn_is_refused_by_its_first_line(
    control_plane: ControlPlane, row: dict[str, Any]
) -> None:
    error = refused(control_plane, training_file=control_plane.upload(json.dumps(row).encode()))
    assert error["code"] == "invalid_training_file"
    assert "line 1" in error["message"]
    assert "nothing to learn" in error["message"]


def test_full_fine_tuning_does_not_throw_away_the_adapter_it_was_given(control_plane: ControlPlane) -> None:
    name = tuned(control_plane)
    error = refused(control_plane, model=name, tunesmith={"method": "full"})
    assert (error["code"], error["param"]) == ("adapter_needs_lora", "tunesmith.method")
    control_plane.create_job(model=name, tunesmith={"goal": "quality"})
    attempt = control_plane.worker("worker-2").claim()
    assert attempt is not None
    assert attempt.claim.plan.method != "full"


@pytest.mark.parametrize("change", [{"rank": 8}, {"alpha": 99}, {"use_dora": True}, {"target_modules": "attention"}])
def test_a_job_that_continues_an_adapter_keeps_its_shape(control_plane: ControlPlane, change: dict[str, Any]) -> None:
    name = tuned(control_plane, use_rslora=True)
    error = refused(control_plane, model=name, tunesmith={"lora": change})
    assert (error["code"], error["param"]) == ("adapter_shape_is_fixed", f"tunesmith.lora.{next(iter(change))}")
    control_plane.create_job(model=name)
    attempt = control_plane.worker("worker-2").claim()
    assert attempt is not None
    lora = attempt.claim.plan.lora
    assert lora is not None
    assert (lora.rank, lora.use_rslora) == (4, True)


def test_no_other_base_can_take_its_place_under_an_adapter(control_plane: ControlPlane) -> None:
    tuned(control_plane)
    with control_plane.http("admin") as client:
        assert client.delete("/v1/models/tiny-llama").json()["error"]["code"] == "model_in_use"
        body = client.get("/v1/models/tiny-llama").json()
        files = [
            {"name": "config.json", "sha256": "0" * 64, "bytes": 1},
            {"name": "model.safetensors", "sha256": "1" * 64, "bytes": 1},
        ]
        config = control_plane.sql("SELECT config FROM models WHERE name = 'tiny-llama'")[0][0]
        answer = client.post("/v1/models", json={"name": body["id"], "files": files, "config": config})
    assert answer.json()["error"]["code"] == "model_exists"


@pytest.mark.parametrize("number", ["NaN", "-1", "1e999"])
def test_a_model_of_numbers_that_are_none_is_refused_by_field(control_plane: ControlPlane, number: str) -> None:
    with control_plane.http("admin") as client:
        config = f'{{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": {number}}}'
        body = f'{{"name": "odd", "config": {config}}}'
        answer = client.post("/v1/models", content=body, headers={"Content-Type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "invalid_model_config")
    assert error["param"] == "config.num_hidden_layers"


def test_a_model_may_have_an_infinite_number_where_its_family_has_one(control_plane: ControlPlane) -> None:
    config = json.dumps({**control_plane.sql("SELECT config FROM models WHERE name = 'tiny-llama'")[0][0]})
    body = f'{{"name": "odd", "config": {config[:-1]}, "time_step_limit": [0.0, Infinity]}}}}'
    with control_plane.http("admin") as client:
        answer = client.post("/v1/models", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text
    stored = control_plane.sql("SELECT config FROM models WHERE name = 'odd'")[0][0]
    assert stored["time_step_limit"] == [0.0, {"__float__": "Infinity"}]


def test_an_unknown_place_of_the_list_is_named_by_its_own_parameter(control_plane: ControlPlane) -> None:
    for path in ("/v1/fine_tuning/jobs", "/v1/files", "/v1/evaluations"):
        answer = control_plane.request("GET", f"{path}?after=nobody")
        assert (answer.status_code, answer.json()["error"]["param"]) == (404, "after"), path
    job_id = control_plane.create_job()["id"]
    answer = control_plane.request("GET", f"/v1/fine_tuning/jobs/{job_id}x/events")
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "id")


def test_a_body_that_is_no_object_is_said_to_be_none(control_plane: ControlPlane) -> None:
    answer = control_plane.request("POST", "/v1/fine_tuning/jobs", json=[])
    assert answer.json()["error"]["message"] == "The request body must be a JSON object, not []."


def test_a_list_that_is_too_short_is_counted_in_plain_words(control_plane: ControlPlane) -> None:
    upload = {"bytes": 9, "filename": "rows.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"}
    upload_id = control_plane.request("POST", "/v1/uploads", json=upload).json()["id"]
    answer = control_plane.request("POST", f"/v1/uploads/{upload_id}/complete", json={"part_ids": []})
    assert answer.json()["error"]["message"].endswith("List should have at least 1 item, not 0.")


def test_a_part_that_is_too_large_says_how_large_one_may_be(control_plane: ControlPlane) -> None:
    head = (
        f"POST /v1/uploads/upload-1/parts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {control_plane.keys['member']}"
    )
    announced = f"{head}\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: {65 * 2**20}\r\n\r\n"
    address = urlsplit(control_plane.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(announced.encode())
        answer = HTTPResponse(connection)
        answer.begin()
        said = answer.read().decode()
    assert answer.status == 413
    assert "parts of at most 64 MiB" in said
