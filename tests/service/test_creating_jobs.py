"""What a create request may say, and what is answered when it is wrong."""

import json
from typing import Any

import pytest

from tests.control_plane import ControlPlane, chat_rows
from tests.machines import ONE_GPU, SMALL_CPU


def create(plane: ControlPlane, **fields: Any) -> Any:
    headers = fields.pop("headers", {})
    body = {"model": "tiny-llama", "training_file": fields.pop("training_file", None) or plane.upload(), **fields}
    return plane.request("POST", "/v1/fine_tuning/jobs", json=body, headers=headers)


@pytest.mark.parametrize(
    ("fields", "code", "param", "words"),
    [
        (
            {"hyperparameters": {"n_epochs": 0}},
            "invalid_hyperparameter",
            "hyperparameters.n_epochs",
            "greater than or equal to 1",
        ),
        ({"hyperparameters": {"n_epochs": "3"}}, "invalid_hyperparameter", "hyperparameters.n_epochs", '"3"'),
        (
            {"hyperparameters": {"n_epoch": 3}},
            "unknown_parameter",
            "hyperparameters.n_epoch",
            "Did you mean 'hyperparameters.n_epochs'?",
        ),
        ({"hyperparameters": {"beta": 0.1}}, "unknown_parameter", "hyperparameters.beta", "Known here"),
        ({"trainingfile": "x"}, "unknown_parameter", "trainingfile", "Did you mean 'training_file'?"),
        ({"tunesmith": {"goal": "cheap"}}, "invalid_value", "tunesmith.goal", '"cheap"'),
        ({"tunesmith": {"validation": "file"}}, "invalid_value", "tunesmith.validation", '"file"'),
        (
            {"tunesmith": {"lora": {"ranks": 8}}},
            "unknown_parameter",
            "tunesmith.lora.ranks",
            "Did you mean 'tunesmith.lora.rank'?",
        ),
        ({"tunesmith": {"lora": {"rank": 0}}}, "invalid_value", "tunesmith.lora.rank", "greater than or equal to 1"),
        ({"tunesmith": {"learning_rate": 7}}, "invalid_value", "tunesmith.learning_rate", "less than or equal to 1"),
        ({"tunesmith": {"max_seq_length": 4096}}, "plan_does_not_fit", "tunesmith.max_seq_length", "2,048"),
        ({"suffix": ""}, "invalid_value", "suffix", "at least 1 character"),
        ({"seed": -1}, "invalid_value", "seed", "greater than or equal to 0"),
        ({"metadata": {"k": 5}}, "invalid_value", "metadata", "valid string"),
        ({"metadata": {"k" * 65: "v"}}, "invalid_value", None, "at most 64"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "invalid_value", "metadata", "at most 16"),
        ({"method": {"type": "reinforcement"}}, "unsupported_value", "method.type", "not offered"),
        ({"method": {"type": "magic"}}, "invalid_value", "method.type", '"magic"'),
        ({"method": {"type": "dpo", "supervised": {}}}, "invalid_value", "method.supervised", "does not belong"),
        (
            {
                "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
                "hyperparameters": {"n_epochs": 3},
            },
            "invalid_value",
            "hyperparameters.n_epochs",
            "something else",
        ),
        ({"method": {"type": "dpo"}}, "invalid_training_file", "training_file", "preference pairs"),
        ({"integrations": [{"type": "wandb"}]}, "missing_required_parameter", "integrations.0.wandb", "integrations"),
        ({"integrations": [{"type": "mlflow", "wandb": {"project": "p"}}]}, "invalid_value", "integrations.0.type", ""),
        ({"model": 5}, "invalid_value", "model", "valid string"),
        ({"training_file": "file-nothing"}, "file_not_found", "training_file", "does not exist"),
        ({"validation_file": "file-nothing"}, "file_not_found", "validation_file", "does not exist"),
        ({"suffix": "a\x00b"}, "invalid_request", None, "NUL"),
    ],
)
def test_a_wrong_field_is_named_with_the_reason(
    control_plane: ControlPlane, fields: dict[str, Any], code: str, param: str | None, words: str
) -> None:
    error = create(control_plane, **fields).json()["error"]
    assert (error["code"], error["type"]) == (code, "invalid_request_error")
    assert param is None or error["param"] == param
    assert words in error["message"]
    assert control_plane.sql("SELECT count(*) FROM jobs") == [(0,)]


@pytest.mark.parametrize(
    ("body", "code"), [(b"", "missing_required_parameter"), (b"{", "invalid_json"), (b"[]", "invalid_value")]
)
def test_a_body_that_is_no_request_is_a_400(control_plane: ControlPlane, body: bytes, code: str) -> None:
    response = control_plane.request("POST", "/v1/fine_tuning/jobs", content=body)
    assert (response.status_code, response.json()["error"]["code"]) == (400, code)


def test_a_file_that_is_invalid_or_of_another_purpose_is_refused_with_its_reason(control_plane: ControlPlane) -> None:
    bad = control_plane.upload(b"{oops\n")
    error = create(control_plane, training_file=bad).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_training_file", "training_file")
    assert "line 1: not valid JSON" in error["message"]
    other = control_plane.request(
        "POST", "/v1/files", data={"purpose": "user_data"}, files={"file": ("x", b"x")}
    ).json()["id"]
    assert create(control_plane, training_file=other).json()["error"]["code"] == "invalid_file_purpose"


def test_preference_rows_train_with_dpo_whether_it_is_said_or_not_and_with_nothing_else(
    control_plane: ControlPlane,
) -> None:
    rows = json.dumps({"prompt": "hi", "chosen": "hello", "rejected": "no"}).encode() + b"\n"
    file = control_plane.upload(rows * 10)
    refused = create(control_plane, training_file=file, method={"type": "supervised"}).json()["error"]
    assert refused["param"] == "training_file"
    unsaid = create(control_plane, training_file=file, hyperparameters={"n_epochs": 2}).json()["method"]
    assert (unsaid["type"], unsaid["dpo"]["hyperparameters"]["n_epochs"]) == ("dpo", 2)
    job = create(
        control_plane, training_file=file, method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2}}}
    ).json()
    assert job["method"]["dpo"]["hyperparameters"]["beta"] == 0.2
    assert "beta" not in job["hyperparameters"]


def test_the_deprecated_hyperparameters_mean_the_same(control_plane: ControlPlane) -> None:
    job = create(control_plane, hyperparameters={"n_epochs": 4, "batch_size": "auto"}).json()
    assert job["method"] == {
        "type": "supervised",
        "supervised": {"hyperparameters": {"n_epochs": 4, "batch_size": "auto", "learning_rate_multiplier": "auto"}},
    }


def test_both_spellings_of_the_hyperparameters_may_be_sent_when_they_agree(control_plane: ControlPlane) -> None:
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 4}}}
    job = create(control_plane, method=method, hyperparameters={"n_epochs": 4, "batch_size": 2}).json()
    assert job["method"]["supervised"]["hyperparameters"] == {
        "n_epochs": 4,
        "batch_size": 2,
        "learning_rate_multiplier": "auto",
    }


def test_nulls_mean_absent(control_plane: ControlPlane) -> None:
    response = create(
        control_plane, suffix=None, seed=None, method=None, metadata=None, integrations=None, validation_file=None
    )
    assert response.status_code == 200
    assert isinstance(response.json()["seed"], int)


def test_an_idempotency_key_finds_the_same_job_and_refuses_another_body(control_plane: ControlPlane) -> None:
    file, key = control_plane.upload(), {"Idempotency-Key": "night-1"}
    first = create(control_plane, training_file=file, headers=key).json()
    assert create(control_plane, training_file=file, headers=key).json()["id"] == first["id"]
    other = create(control_plane, training_file=file, seed=5, headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (400, "idempotency_key_reused")
    assert create(control_plane, training_file=file).json()["id"] != first["id"]


def test_an_idempotency_key_is_its_projects_own(control_plane: ControlPlane) -> None:
    key = {"Idempotency-Key": "night-1"}
    first = create(control_plane, headers=key).json()["id"]
    body = {"model": "tiny-llama", "training_file": control_plane.upload(key="stranger")}
    other = control_plane.request("POST", "/v1/fine_tuning/jobs", key="stranger", json=body, headers=key)
    assert other.status_code == 200
    assert other.json()["id"] != first


def test_a_retry_of_the_client_finds_the_job_that_its_first_try_made(control_plane: ControlPlane) -> None:
    file = control_plane.upload()
    first = create(control_plane, training_file=file, headers={"x-stainless-retry-count": "0"}).json()["id"]
    assert create(control_plane, training_file=file, headers={"x-stainless-retry-count": "1"}).json()["id"] == first
    assert (
        create(control_plane, training_file=file, seed=1, headers={"x-stainless-retry-count": "1"}).json()["id"]
        != first
    )
    assert create(control_plane, training_file=file, headers={"x-stainless-retry-count": "0"}).json()["id"] != first
    control_plane.sql("ALTER TABLE jobs DISABLE TRIGGER jobs_referee")
    control_plane.sql("UPDATE jobs SET created_at = created_at - interval '11 minutes'")
    control_plane.sql("ALTER TABLE jobs ENABLE TRIGGER jobs_referee")
    assert create(control_plane, training_file=file, headers={"x-stainless-retry-count": "1"}).json()["id"] != first


class TestFitting:
    big_config = {
        "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
        "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192,
        "tie_word_embeddings": False, "rms_norm_eps": 1e-5,
    }  # fmt: skip

    def test_a_job_waits_with_the_reason_while_no_worker_is_there(self, control_plane: ControlPlane) -> None:
        job = create(control_plane).json()
        assert job["status"] == "queued"
        assert job["tunesmith"]["waiting_reason"].startswith("No worker is connected")

    def test_a_job_too_big_for_every_worker_waits_with_the_numbers(self, control_plane: ControlPlane) -> None:
        control_plane.add_model("big", config=self.big_config)
        control_plane.worker(hardware=ONE_GPU)
        job = create(control_plane, model="big").json()
        assert job["status"] == "queued"
        assert "GiB" in job["tunesmith"]["waiting_reason"]
        assert any(message.startswith("Waiting: ") for message in control_plane.messages(job["id"]))

    def test_a_forced_method_that_no_known_worker_could_hold_is_refused_with_the_numbers(
        self, control_plane: ControlPlane
    ) -> None:
        control_plane.add_model("big", config=self.big_config)
        control_plane.worker(hardware=ONE_GPU)
        error = create(control_plane, model="big", tunesmith={"method": "full"}).json()["error"]
        assert (error["code"], error["param"]) == ("plan_does_not_fit", "tunesmith.method")
        assert "GiB" in error["message"]

    def test_a_forced_method_waits_while_no_worker_was_ever_seen(self, control_plane: ControlPlane) -> None:
        control_plane.add_model("big", config=self.big_config)
        assert create(control_plane, model="big", tunesmith={"method": "full"}).json()["status"] == "queued"

    def test_a_claim_passes_over_what_does_not_fit_and_takes_the_next(self, control_plane: ControlPlane) -> None:
        control_plane.add_model("big", config=self.big_config)
        create(control_plane, model="big", tunesmith={"priority": 9})
        small = create(control_plane).json()["id"]
        claim = control_plane.worker(hardware=ONE_GPU).claim()
        assert claim is not None
        assert claim.job_id == small
        assert control_plane.worker("tiny", hardware=SMALL_CPU).claim() is None


def test_a_job_object_can_be_polled_cheaply(control_plane: ControlPlane) -> None:
    job_id = create(control_plane).json()["id"]
    path = f"/v1/fine_tuning/jobs/{job_id}"
    etag = control_plane.request("GET", path).headers["etag"]
    assert control_plane.request("GET", path, headers={"if-none-match": etag}).status_code == 304
    assert control_plane.request("GET", f"{path}?wait=0.3", headers={"if-none-match": etag}).status_code == 304
    control_plane.request("POST", f"{path}/cancel")
    assert (
        control_plane.request("GET", f"{path}?wait=20", headers={"if-none-match": etag}).json()["status"] == "cancelled"
    )


def test_deleting_the_training_file_does_not_hurt_a_job_that_waits(control_plane: ControlPlane) -> None:
    file = control_plane.upload(chat_rows(8))
    create(control_plane, training_file=file)
    control_plane.request("DELETE", f"/v1/files/{file}")
    attempt = control_plane.worker().claim()
    assert attempt is not None
    assert attempt.get(attempt.claim.training_file.sha256).content == chat_rows(8)


@pytest.mark.parametrize(("ours", "trained", "held_out"), [({}, 36, 4), ({"validation": "none"}, 40, 0)])
def test_a_tenth_of_the_rows_is_held_out_unless_none_is_to_be(
    control_plane: ControlPlane, ours: dict[str, str], trained: int, held_out: int
) -> None:
    file = control_plane.upload(chat_rows(40))
    assert create(control_plane, training_file=file, tunesmith=ours).status_code == 200
    attempt = control_plane.worker().claim()
    assert attempt is not None
    dataset = attempt.claim.dataset
    assert (dataset.rows, dataset.held_out_rows, dataset.validation_rows) == (trained, held_out, held_out)
    assert any("4 of 40 rows are held out" in reason.text for reason in attempt.claim.plan.reasons) is bool(held_out)
