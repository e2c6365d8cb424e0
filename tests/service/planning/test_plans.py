"""Planning without a job: the answer is what a claim would choose, and it learns from what finished runs measured."""

from typing import Any

import httpx2
import pytest

from tests.control_plane import TINY_CONFIG, AttemptSide, ControlPlane, chat_rows
from tests.machines import CPU, ONE_GPU, SMALL_CPU
from tunesmith.service.planning.forecast import expected_starts
from tunesmith.tuning.estimates.measured import visible_peak_bytes
from tunesmith.tuning.hardware import MachineConstants
from tunesmith.tuning.hardware_facts.constants import CPU_KERNELS_BYTES
from tunesmith.tuning.messages import Claim, FinishReport
from tunesmith.tuning.models.shape import MEASURED_SHAPE, MeasuredActivations, ModelShape
from tunesmith.tuning.plan import MemoryEstimate
from tunesmith.tuning.state import Outcome
from tunesmith.tuning.values.json_objects import Json
from tunesmith.tuning.values.units import GIB

BIG_CONFIG = {
    "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
    "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192,
    "tie_word_embeddings": False, "rms_norm_eps": 1e-5,
}  # fmt: skip


def ask(plane: ControlPlane, **fields: Any) -> httpx2.Response:
    return plane.request("POST", "/v1/fine_tuning/plans", json={"model": "tiny-llama", **fields})


def plans(plane: ControlPlane, **fields: Any) -> Json:
    response = ask(plane, **fields)
    assert response.status_code == 200, response.text
    return dict(response.json())


def finish(attempt: AttemptSide, **result: Any) -> None:
    assert attempt.artifact().status_code == 204
    report = FinishReport(outcome=Outcome.SUCCEEDED, trained_tokens=1000, result=result)
    assert attempt.post("finish", report).status_code == 204


def run_once(plane: ControlPlane, *, memory: float = 1.0, speed: float = 1.0, **more: Any) -> AttemptSide:
    """A job that ran with so many times the memory and the speed that its plan said."""
    plane.create_job()
    attempt = plane.worker().claim()
    assert attempt is not None
    plan = attempt.claim.plan
    finish(
        attempt,
        peak_memory_bytes=int(plan.memory.total_bytes * memory),
        tokens_per_second=plan.time.tokens_per_second * speed,
        training_seconds=12.5,
        **more,
    )
    return attempt


def test_the_answer_is_what_a_claim_then_chooses(control_plane: ControlPlane) -> None:
    body = {"training_file": control_plane.upload(), "seed": 7, "tunesmith": {"method": "lora", "lora": {"rank": 4}}}
    worker = control_plane.worker()
    answer = plans(control_plane, **body)
    control_plane.create_job(**body)
    attempt = worker.claim()
    assert attempt is not None
    (entry,) = answer["data"]
    assert answer["object"] == "fine_tuning.plan"
    assert entry["plan"] == attempt.claim.plan.model_dump(mode="json")
    assert answer["dataset"] == attempt.claim.dataset.model_dump(mode="json")
    assert (answer["chosen"], entry["worker_class"]) == (CPU.worker_class, CPU.worker_class)
    assert (entry["workers"], entry["idle"], entry["fits"], entry["refusal"]) == (1, 1, True, None)
    assert entry["expected_start_seconds"] == 0
    assert entry["predicted_peak_bytes"] < entry["free_bytes"]
    assert entry["seconds_low"] < entry["seconds"] < entry["seconds_high"]


def test_counts_of_a_file_give_the_plan_that_the_file_itself_gives(control_plane: ControlPlane) -> None:
    control_plane.worker()
    by_file = plans(control_plane, training_file=control_plane.upload(), seed=1)
    by_counts = plans(
        control_plane,
        seed=1,
        tunesmith={
            "dataset": {name: value for name, value in by_file["dataset"].items() if name != "tokens_are_exact"}
        },
    )
    assert by_counts == by_file


def test_what_a_worker_measured_about_itself_is_what_it_is_planned_with(control_plane: ControlPlane) -> None:
    rates = {"matmul_16bit_flops_per_second": 1e12, "matmul_fp32_flops_per_second": 1e12}
    own = MachineConstants(process_bytes=123_000_000, threads=CPU.cpu.cores, **rates)
    worker = control_plane.worker(hardware=CPU.model_copy(update={"constants": own}))
    job_id = control_plane.create_job()["id"]
    attempt = worker.claim()
    assert attempt is not None
    assert attempt.claim.plan.memory.items["context"] == own.process_bytes + CPU_KERNELS_BYTES
    reasons = control_plane.job(job_id)["tunesmith"]["plan"]["reasons"]
    assert any(reason["text"].startswith("Measured on this worker") for reason in reasons)


def test_a_model_known_by_its_shape_alone_is_planned_and_not_trained(control_plane: ControlPlane) -> None:
    body = {"name": "big", "config": BIG_CONFIG}
    answer = control_plane.request("POST", "/v1/models", key="admin", json=body)
    assert (answer.status_code, answer.json()["tunesmith"]["status"]) == (200, "shape_only")
    listed = {
        model["id"]: model["tunesmith"]["status"] for model in control_plane.request("GET", "/v1/models").json()["data"]
    }
    assert listed["big"] == "shape_only"
    on = plans(control_plane, model="big", tunesmith={"rows": 100, "on": ["8xH200"]})["data"][0]
    assert on["fits"]
    file_id = control_plane.upload()
    assert plans(control_plane, model="big", training_file=file_id, tunesmith={"on": ["8xH200"]})["data"][0]["fits"]

    refused = control_plane.request("POST", "/v1/fine_tuning/jobs", json={"model": "big", "training_file": file_id})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "model_has_no_weights")
    assert "tunesmith models add big --path" in refused.json()["error"]["hint"]


def test_weights_may_follow_a_shape_and_a_shape_never_replaces_weights(control_plane: ControlPlane) -> None:
    control_plane.request("POST", "/v1/models", key="admin", json={"name": "later", "config": BIG_CONFIG})
    control_plane.add_model("later")
    assert control_plane.create_job(model="later")["status"] == "queued"
    again = control_plane.request("POST", "/v1/models", key="admin", json={"name": "later", "config": BIG_CONFIG})
    assert (again.status_code, again.json()["error"]["code"]) == (400, "model_exists")


def test_a_worker_gets_the_measured_shape_of_a_family_without_formulas(control_plane: ControlPlane) -> None:
    each = {"full_16bit": 9e3, "full_32bit": 2e4, "lora_16bit": 8e3, "lora_32bit": 1e4}
    like_llama = ModelShape.from_config(TINY_CONFIG).model_copy(update={"family": "olmo2"})
    shape = like_llama.model_copy(update={"measured": MeasuredActivations(**each)})
    config = TINY_CONFIG | {"model_type": "olmo2"}
    refused = control_plane.request("POST", "/v1/models", key="admin", json={"name": "new", "config": config})
    assert refused.json()["error"]["code"] == "unknown_model_family"
    control_plane.add_model("new", config=config | {MEASURED_SHAPE: shape.model_dump(mode="json")})
    control_plane.create_job(model="new")
    attempt = control_plane.worker().claim()
    assert attempt is not None
    assert attempt.claim.base_model.measured_shape == shape


def test_planning_changes_nothing(control_plane: ControlPlane) -> None:
    file = control_plane.upload()
    control_plane.worker()
    before = control_plane.snapshot()
    plans(control_plane, training_file=file)
    plans(control_plane, tunesmith={"rows": 500, "on": ["1xRTX4090"]})
    assert control_plane.snapshot() == before


@pytest.mark.parametrize(
    ("fields", "code", "param", "words"),
    [
        ({}, "missing_required_parameter", "training_file", "training_file"),
        ({"training_file": "file-nothing"}, "file_not_found", "training_file", "does not exist"),
        ({"model": "tiny-lama", "tunesmith": {"rows": 5}}, "model_not_found", "model", "tiny-llama"),
        ({"tunesmith": {"rows": 5, "goal": "cheap"}}, "invalid_value", "tunesmith.goal", '"cheap"'),
        ({"tunesmith": {"row": 5}}, "unknown_parameter", "tunesmith.row", "Did you mean 'tunesmith.rows'?"),
        ({"tunesmith": {"rows": 5, "on": ["RTX 4091"]}}, "unknown_gpu", "tunesmith.on", "RTX 4090"),
        ({"tunesmith": {"rows": 5, "on": ["9999xH100"]}}, "invalid_request", "tunesmith.on", "absurd"),
        ({"tunesmith": {"rows": 5}, "training_file": "file-1"}, "invalid_value", "tunesmith.rows", "send one of them"),
        (
            {"tunesmith": {"rows": 5, "host_memory_gib": 64}},
            "invalid_value",
            "tunesmith.host_memory_gib",
            "belongs to 'tunesmith.on'",
        ),
        ({"tunesmith": {"rows": 0}}, "invalid_value", "tunesmith.rows", "greater than or equal to 1"),
        ({"tunesmith": {"rows": 5, "max_seq_length": 4096}}, "plan_does_not_fit", "tunesmith.max_seq_length", "2,048"),
        ({"tunesmith": {"rows": 5}, "method": {"type": "reinforcement"}}, "unsupported_value", "method.type", "not"),
    ],
)
def test_a_wrong_field_is_named_as_creating_a_job_would(
    control_plane: ControlPlane, fields: Json, code: str, param: str, words: str
) -> None:
    response = ask(control_plane, **fields)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, code, param)
    assert words in error["message"]


def test_a_class_that_is_too_small_says_by_which_numbers_and_imagined_hardware_stands_beside_it(
    control_plane: ControlPlane,
) -> None:
    control_plane.add_model("big", config=BIG_CONFIG)
    control_plane.worker(hardware=ONE_GPU)
    answer = plans(control_plane, model="big", tunesmith={"rows": 500, "on": ["1xRTX4090", "8xA100-80G"]})
    live, small, large = answer["data"]
    assert (live["fits"], live["plan"], live["expected_start_seconds"]) == (False, None, None)
    assert "GiB" in live["refusal"]
    assert live["predicted_peak_bytes"] > live["free_bytes"] == 21 * GIB
    assert (small["fits"], large["fits"], large["what_if"], large["workers"]) == (False, True, True, 0)
    assert large["plan"]["world_size"] > 1
    assert answer["chosen"] is None


def test_without_a_worker_there_is_nothing_to_choose_from(control_plane: ControlPlane) -> None:
    control_plane.worker().beat(draining=True)
    answer = plans(control_plane, tunesmith={"rows": 500, "tokens_per_row": 100})
    assert (answer["data"], answer["chosen"]) == ([], None)
    assert (answer["dataset"]["rows"], answer["dataset"]["held_out_rows"]) == (450, 50)
    assert answer["dataset"]["tokens"] == 45_000


def test_the_start_is_expected_when_the_running_attempt_and_the_line_ahead_are_done(
    control_plane: ControlPlane,
) -> None:
    file = control_plane.upload()
    attempt = control_plane.claimed(training_file=file)
    attempt.heartbeat(step=1)  # 30 seconds remain
    first = plans(control_plane, training_file=file)["data"][0]
    assert first["idle"] == 0
    assert 20 < first["expected_start_seconds"] <= 30
    control_plane.create_job(training_file=file)
    second = plans(control_plane, training_file=file)["data"][0]
    assert second["expected_start_seconds"] == pytest.approx(first["expected_start_seconds"] + first["seconds"], abs=10)
    urgent = plans(control_plane, training_file=file, tunesmith={"priority": 50})["data"][0]
    assert urgent["expected_start_seconds"] <= 30


def test_the_class_that_starts_first_is_chosen(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    attempt.heartbeat(step=1)
    control_plane.worker("other", hardware=ONE_GPU)
    control_plane.worker("tiny", hardware=SMALL_CPU)
    answer = plans(control_plane, tunesmith={"rows": 100})
    assert answer["chosen"] == ONE_GPU.worker_class
    fits = {entry["worker_class"]: entry["fits"] for entry in answer["data"]}
    assert fits == {CPU.worker_class: True, ONE_GPU.worker_class: True, SMALL_CPU.worker_class: False}


def test_the_line_is_handed_out_to_the_slots_where_each_job_starts_first() -> None:
    slots = {"slow": [0.0, 100.0], "fast": [10.0]}
    line = [{"slow": 50.0, "fast": 5.0}, {"slow": 50.0}, {"fast": 5.0}, {}]
    assert expected_starts(slots, []) == {"slow": 0.0, "fast": 10.0}
    assert expected_starts(slots, line) == {"slow": 100.0, "fast": 15.0}
    assert expected_starts({"one": [0.0]}, [{"one": 10.0}], unseen=3) == {"one": 40.0}


def test_a_finished_job_shows_what_was_measured_beside_its_plan(control_plane: ControlPlane) -> None:
    attempt = run_once(control_plane, memory=1.25, speed=0.5)
    ours = control_plane.job(attempt.job_id)["tunesmith"]
    predicted = ours["plan"]["memory"]["total_bytes"]
    assert ours["measured"] == {
        "peak_memory_bytes": int(predicted * 1.25),
        "predicted_peak_memory_bytes": predicted,
        "tokens_per_second": ours["plan"]["time"]["tokens_per_second"] * 0.5,
        "training_seconds": 12.5,
        "mfu": None,
        "checkpoint_stall_seconds": None,
        "evaluation_seconds": None,
    }
    waiting = control_plane.create_job()
    assert waiting["tunesmith"]["measured"] is None


def test_the_next_prediction_moves_to_what_the_last_run_measured(control_plane: ControlPlane) -> None:
    first = run_once(control_plane, memory=1.25, speed=0.8).claim.plan
    file = control_plane.upload()
    (planned,) = plans(control_plane, training_file=file, seed=3)["data"]
    control_plane.create_job(training_file=file, seed=3)
    second = control_plane.worker().claim()
    assert second is not None
    claimed = second.claim
    assert planned["plan"] == claimed.plan.model_dump(mode="json")
    assert claimed.plan.memory.total_bytes == pytest.approx(first.memory.total_bytes * 1.25, rel=1e-3)
    assert claimed.plan.time.tokens_per_second == pytest.approx(first.time.tokens_per_second * 0.8, rel=1e-3)
    told = "earlier runs here measured: memory x 1.25, speed x 0.80 (1 run of this model and method with blocked/"
    assert told in claimed.plan.reasons[-1].text
    correction = Claim.model_validate_json(claimed.model_dump_json()).corrections[claimed.plan.method]
    assert (correction.memory, correction.speed) == (pytest.approx(1.25, rel=1e-3), pytest.approx(0.8))


def test_a_right_prediction_stays_as_it_is_however_often_it_is_confirmed(control_plane: ControlPlane) -> None:
    run_once(control_plane, memory=1.25, speed=0.8)
    expected = run_once(control_plane).claim.plan
    assert run_once(control_plane).claim.plan.memory == expected.memory
    (entry,) = plans(control_plane, training_file=control_plane.upload())["data"]
    assert entry["predicted_peak_bytes"] == pytest.approx(expected.memory.total_bytes, rel=1e-3)
    assert entry["plan"]["time"]["tokens_per_second"] == pytest.approx(expected.time.tokens_per_second, rel=1e-3)


def test_on_a_gpu_only_what_the_allocator_sees_is_compared() -> None:
    items = {"weights": 900, "measured_correction": 250, "slack": 50, "context": 50}
    memory = MemoryEstimate(items=items, total_bytes=1250, budget_bytes=2000)
    assert visible_peak_bytes(memory, device="cpu") == 1250
    assert visible_peak_bytes(memory, device="cuda") == 1125  # the weights, corrected like the whole


def test_an_absurd_measurement_moves_a_prediction_only_within_bounds(control_plane: ControlPlane) -> None:
    first = run_once(control_plane, memory=50, speed=1e6).claim.plan
    (entry,) = plans(control_plane, training_file=control_plane.upload())["data"]
    assert entry["predicted_peak_bytes"] == pytest.approx(first.memory.total_bytes * 1.8, rel=1e-3)
    assert entry["plan"]["time"]["measured_correction"] == 1.5


def test_a_run_that_had_to_shrink_does_not_lower_the_next_prediction(control_plane: ControlPlane) -> None:
    attempt = run_once(control_plane, memory=0.7, tokens_per_micro_step=16)
    before = attempt.claim.plan.memory
    (entry,) = plans(control_plane, training_file=control_plane.upload())["data"]
    assert entry["predicted_peak_bytes"] >= before.total_bytes


def test_other_hardware_and_other_models_learn_nothing_from_a_run(control_plane: ControlPlane) -> None:
    control_plane.add_model("sibling")
    run_once(control_plane, memory=1.25)
    control_plane.worker("gpu", hardware=ONE_GPU)
    answer = plans(control_plane, training_file=control_plane.upload(chat_rows(30)))
    corrected = {
        entry["worker_class"]: "measured_correction" in entry["plan"]["memory"]["items"] for entry in answer["data"]
    }
    assert corrected == {CPU.worker_class: True, ONE_GPU.worker_class: False}
    sibling = plans(control_plane, model="sibling", tunesmith={"rows": 20})
    assert not any("measured_correction" in entry["plan"]["memory"]["items"] for entry in sibling["data"])


def test_a_result_without_sensible_numbers_teaches_nothing(control_plane: ControlPlane) -> None:
    control_plane.create_job()
    attempt = control_plane.worker().claim()
    assert attempt is not None
    finish(attempt, peak_memory_bytes="much", tokens_per_second=-3, training_seconds=True)
    assert control_plane.job(attempt.job_id)["tunesmith"]["measured"]["peak_memory_bytes"] is None
    (entry,) = plans(control_plane, training_file=control_plane.upload())["data"]
    assert entry["predicted_peak_bytes"] == attempt.claim.plan.memory.total_bytes


def test_money_is_told_where_the_operator_has_set_a_price(control_plane: ControlPlane) -> None:
    control_plane.worker()
    wanted = {"rows": 500, "on": ["2xRTX4090"]}
    here, there = plans(control_plane, tunesmith=wanted)["data"]
    assert (here["cost"], there["cost"]) == (None, None)
    priced = control_plane.settings.model_copy(update={"gpu_hour_prices": {CPU.worker_class: 3600.0, "*": 7200.0}})
    control_plane.app.state.settings = priced
    try:
        here, there = plans(control_plane, tunesmith=wanted)["data"]
    finally:
        control_plane.app.state.settings = control_plane.settings
    assert here["cost"] == pytest.approx(here["seconds"], rel=1e-3)
    assert there["gpu_hours"] == pytest.approx(there["seconds"] * there["plan"]["world_size"] / 3600)
    assert there["cost"] == pytest.approx(there["gpu_hours"] * 7200, rel=1e-3)


def test_accuracy_lists_predicted_beside_measured_for_the_own_project(control_plane: ControlPlane) -> None:
    attempt = run_once(control_plane, memory=1.25, speed=0.5)
    path = "/v1/fine_tuning/plans/accuracy"
    (pair,) = control_plane.request("GET", path).json()["data"]
    assert (pair["job"], pair["id"], pair["model"]) == (attempt.job_id, attempt.claim.attempt_id, "tiny-llama")
    assert pair["predicted_peak_bytes"] == attempt.claim.plan.memory.total_bytes
    assert (pair["peak_error"], pair["speed_error"]) == (pytest.approx(0.25, abs=1e-3), pytest.approx(-0.5))
    assert pair["measured_seconds"] == 12.5
    assert control_plane.request("GET", path, key="stranger").json()["data"] == []
