"""Before a trainer starts: room on the disk, verified inputs, and a plan that fits the memory of the moment."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.typing import FilteringBoundLogger

from tests.worker.conftest import ref
from tests.worker.scripted_service import Reply, Request, ScriptedService
from tunesmith.tuning.corrections import Corrections
from tunesmith.tuning.errors import Category, JobFailure
from tunesmith.tuning.evaluation import EvaluationSpec
from tunesmith.tuning.hardware import Cpu, HardwareProfile
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.messages import BaseModelRef, Claim, FileRef
from tunesmith.tuning.models.hub import HubCommit
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Plan
from tunesmith.tuning.planner.choose import choose
from tunesmith.tuning.values.units import GIB
from tunesmith.tuning.words import Method
from tunesmith.worker.attempt.disk.room import moved_bytes, needed_bytes
from tunesmith.worker.attempt.preparation import PreparedRun, prepare, prepare_longer
from tunesmith.worker.attempt.rehearsals import Rehearsals
from tunesmith.worker.attempt.token_cache import TokenStore
from tunesmith.worker.transport.control import HttpAttemptControl
from tunesmith.worker.transport.model_cache import ModelCache
from tunesmith.worker.transport.wire import read_answer
from tunesmith.worker.work_directory import WorkDirectory

CONFIG = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 512, "max_position_embeddings": 2048, "tie_word_embeddings": True,
}  # fmt: skip
CONTENTS = {
    "config.json": json.dumps(CONFIG).encode(),
    "other.json": json.dumps({**CONFIG, "hidden_size": 128}).encode(),
    "adapter.json": b'{"r": 4}',
    "alike.jsonl": b'{"text": "the same"}\n' * 30,
    "rows.jsonl": b'{"messages": []}\n',
    "many.jsonl": b"".join(b'{"text": "row %d"}\n' % number for number in range(30)),
}
HUB = HubCommit(id="owner/tiny", commit="c" * 40)
SPEC = JobSpec(model="tiny", seed=1)
DATASET = DatasetFacts(rows=50, tokens=2000, longest_row_tokens=60, supervised_tokens=500)


def host(*, free_bytes: int = 8 * GIB) -> HardwareProfile:
    return HardwareProfile(
        cpu=Cpu(model="test", cores=2, memory_total_bytes=8 * GIB, memory_free_bytes=free_bytes), disk_free_bytes=GIB
    )


def claim(*, plan: Plan | None = None, model_files: tuple[FileRef, ...] | None = None) -> Claim:
    chosen = choose(spec=SPEC, shape=ModelShape.from_config(CONFIG), dataset=DATASET, hardware=host())
    assert isinstance(chosen, Plan)
    return Claim(
        job_id="job-1",
        attempt_id="attempt-1",
        epoch=1,
        lease_token="lease-token",
        lease_seconds=60,
        heartbeat_interval_seconds=10,
        spec=SPEC,
        plan=plan or chosen,
        dataset=DATASET,
        base_model=BaseModelRef(name="tiny", files=model_files or (ref("config.json", CONTENTS["config.json"]),)),
        training_file=ref("../../rows.jsonl", CONTENTS["rows.jsonl"]),
    )


@pytest.fixture
def preparing(
    tmp_path: Path, control: HttpAttemptControl, service: ScriptedService, log: FilteringBoundLogger
) -> Callable[..., PreparedRun]:
    blobs = {ref(name, content).sha256: content for name, content in CONTENTS.items()}

    def answer(request: Request) -> Reply:
        return Reply(200, blobs[request.path.rpartition("/")[2]]) if request.method == "GET" else Reply()

    service.otherwise = answer
    work = WorkDirectory(tmp_path / "work")
    work.create()
    tokens = TokenStore(work.tokens, limit_bytes=GIB)
    cache = ModelCache(work.models)
    return lambda claimed, hardware: prepare(
        claimed,
        hardware=hardware,
        work=work,
        tokens=tokens,
        cache=cache,
        rehearsals=Rehearsals(),
        control=control,
        log=log,
    )


def test_a_run_directory_holds_verified_inputs_under_names_of_our_own(preparing: Callable[..., PreparedRun]) -> None:
    claimed = claim()
    prepared = preparing(claimed, host())
    request = prepared.run.request()
    assert request == prepared.request
    assert request.plan == claimed.plan
    assert Path(request.training_file) == prepared.run.root / "data" / "training.jsonl"
    assert Path(request.training_file).read_bytes() == CONTENTS["rows.jsonl"]
    config = Path(request.model_dir) / "config.json"
    assert request.seals[str(config)].sha256 == ref("config.json", CONTENTS["config.json"]).sha256
    assert request.seals[str(config)].is_intact(config)
    assert request.resume_from is None


@pytest.mark.parametrize(
    ("model", "name", "revision"),
    [
        ({"name": "tiny"}, "/path/to/tiny", None),
        ({"name": "tiny", "hub": HUB}, "owner/tiny", HUB.commit),
        ({"name": "ft:tiny:acme::1", "adapter_of": "tiny", "hub": HUB}, "owner/tiny", HUB.commit),
        ({"name": "ft:tiny:acme::1", "adapter_of": "tiny"}, "/path/to/tiny", None),
    ],
)
def test_a_result_names_its_base_by_hub_and_commit_or_by_nothing_that_a_hub_could_have(
    preparing: Callable[..., PreparedRun], model: dict[str, Any], name: str, revision: str | None
) -> None:
    claimed = claim()
    files = claimed.base_model.files
    under = {"files": (), "base_files": files} if "adapter_of" in model else {"files": files}
    prepared = preparing(claimed.model_copy(update={"base_model": BaseModelRef(**under, **model)}), host())
    assert (prepared.request.base_name, prepared.request.base_revision) == (name, revision)


OTHER = {**CONFIG, "hidden_size": 128}


def evaluation_of(*, rows: int, file: str = "many.jsonl", **asked: object) -> Claim:
    """Of an adapter on the tiny model, against a wider one."""
    spec = SPEC.model_copy(update={"evaluation": EvaluationSpec(model="tuned", against="other", rows=rows, **asked)})
    base, other = ref("config.json", CONTENTS["config.json"]), ref("config.json", CONTENTS["other.json"])
    return claim().model_copy(
        update={
            "spec": spec,
            "base_model": BaseModelRef(
                name="tuned",
                files=(ref("adapter_config.json", CONTENTS["adapter.json"]),),
                adapter_of="tiny",
                base_files=(base,),
            ),
            "against": BaseModelRef(name="other", files=(other,)),
            "training_file": ref(file, CONTENTS[file]),
        }
    )


def test_an_evaluation_reads_both_models_and_is_planned_for_the_one_that_needs_more(
    preparing: Callable[..., PreparedRun],
) -> None:
    request = preparing(evaluation_of(rows=30), host()).request
    assert request.against is not None
    assert request.adapter_dir is not None
    assert json.loads((Path(request.against.model_dir) / "config.json").read_text()) == OTHER
    assert (Path(request.adapter_dir) / "adapter_config.json").is_file()
    assert len(request.seals) == 3
    assert request.held_out_lines == (), "all rows are read"
    wider = choose(spec=request.spec, shape=ModelShape.from_config(OTHER), dataset=DATASET, hardware=host())
    assert isinstance(wider, Plan)
    assert request.plan.memory.items["weights"] == wider.memory.items["weights"]


def test_an_evaluation_of_fewer_rows_reads_the_same_ones_each_time(preparing: Callable[..., PreparedRun]) -> None:
    few, fewer = (preparing(evaluation_of(rows=rows), host()).request.held_out_lines for rows in (9, 4))
    assert (len(few), len(fewer)) == (9, 4)
    assert set(fewer) < set(few)
    alike = preparing(evaluation_of(rows=4, file="alike.jsonl"), host()).request.held_out_lines
    assert alike == (1, 2, 3, 4), "equal rows, of which none comes before another"


def test_an_evaluation_needs_no_room_for_checkpoints() -> None:
    measuring = evaluation_of(rows=30)
    files = sum(
        file.bytes for model in (measuring.base_model, measuring.against) for file in (*model.files, *model.base_files)
    )
    assert needed_bytes(measuring, missing_model_bytes=files) < 5000
    assert needed_bytes(claim(), missing_model_bytes=files) > 100_000
    assert moved_bytes(measuring) == needed_bytes(measuring, missing_model_bytes=files)


def test_the_same_rows_are_held_out_at_every_attempt(preparing: Callable[..., PreparedRun]) -> None:
    file = ref("many.jsonl", CONTENTS["many.jsonl"])
    held_out = DATASET.model_copy(update={"rows": 27, "validation_rows": 3, "held_out_rows": 3})
    first, second = (
        preparing(
            claim().model_copy(update={"dataset": held_out, "attempt_id": attempt, "training_file": file}), host()
        )
        for attempt in ("attempt-1", "attempt-2")
    )
    assert len(first.request.held_out_lines) == 3
    assert first.request.held_out_lines == second.request.held_out_lines
    assert preparing(claim(), host()).request.held_out_lines == ()


def test_the_plan_is_kept_while_only_free_memory_differs(
    preparing: Callable[..., PreparedRun], service: ScriptedService
) -> None:
    claimed = claim()
    assert preparing(claimed, host(free_bytes=7 * GIB)).request.plan == claimed.plan
    assert [request.json["plan"] for request in service.to("/phase")] == [None]


def test_a_plan_that_changed_is_reported_and_used(
    preparing: Callable[..., PreparedRun], service: ScriptedService
) -> None:
    usual = claim().plan
    stale = claim(plan=usual.model_copy(update={"tokens_per_micro_step": usual.tokens_per_micro_step + 1}))
    assert preparing(stale, host()).request.plan.tokens_per_micro_step == usual.tokens_per_micro_step
    assert service.to("/phase")[-1].json["plan"]["tokens_per_micro_step"] == usual.tokens_per_micro_step
    assert service.to("/events")


def test_a_pinned_plan_is_used_as_it_stands_or_not_at_all(
    preparing: Callable[..., PreparedRun], service: ScriptedService
) -> None:
    usual = claim().plan
    older = usual.model_copy(update={"tokens_per_micro_step": usual.tokens_per_micro_step + 1, "learning_rate": 1e-5})
    pinned = claim(plan=older).model_copy(update={"is_plan_pinned": True})
    assert preparing(pinned, host()).request.plan == older
    assert not service.to("/events")
    with pytest.raises(JobFailure) as refusal:
        preparing(pinned, host(free_bytes=1024**2))
    assert refusal.value.failure.code == "does_not_fit_now"


def test_the_last_look_predicts_with_what_the_service_learned(preparing: Callable[..., PreparedRun]) -> None:
    learned = {method: Corrections(memory=1000.0) for method in Method}
    with pytest.raises(JobFailure) as refusal:
        preparing(claim().model_copy(update={"corrections": learned}), host())
    assert refusal.value.failure.code == "does_not_fit_now"


def test_exact_lengths_make_a_plan_that_cuts_no_row(
    preparing: Callable[..., PreparedRun], service: ScriptedService, control: HttpAttemptControl
) -> None:
    claimed = claim()
    prepared = preparing(claimed, host())
    assert not prepared.request.cut_long_rows
    exact = DATASET.model_copy(update={"longest_row_tokens": 900, "tokens": 4000, "tokens_are_exact": True})
    prepared.run.write_dataset(exact)

    longer = prepare_longer(prepared, claim=claimed, hardware=host(), rehearsals=Rehearsals(), control=control)
    assert longer.request.plan.max_sequence_length == 960
    assert longer.request.plan.tokens_per_micro_step >= 960
    assert longer.request.cut_long_rows
    assert longer.run.request() == longer.request
    assert service.to("/phase")[-1].json["plan"]["max_sequence_length"] == 960
    assert "900 tokens where 128 were planned" in service.to("/events")[-1].json["message"]


def test_rows_that_do_not_fit_are_cut_as_planned_and_said_to_be(
    preparing: Callable[..., PreparedRun], service: ScriptedService, control: HttpAttemptControl
) -> None:
    claimed = claim()
    prepared = preparing(claimed, host())
    prepared.run.write_dataset(DATASET.model_copy(update={"longest_row_tokens": 2000, "tokens_are_exact": True}))
    tight = host(free_bytes=claimed.plan.memory.total_bytes)
    cut = prepare_longer(prepared, claim=claimed, hardware=tight, rehearsals=Rehearsals(), control=control)
    assert cut.request.plan == claimed.plan
    assert cut.request.cut_long_rows
    assert service.to("/events")[-1].json["level"] == "warn"
    assert "so they are cut" in service.to("/events")[-1].json["message"]


def test_a_guess_below_the_length_that_was_asked_for_may_grow_up_to_it(
    preparing: Callable[..., PreparedRun], control: HttpAttemptControl
) -> None:
    claimed = claim().model_copy(update={"spec": SPEC.model_copy(update={"max_seq_length": 1024})})
    prepared = preparing(claimed, host())
    assert prepared.request.plan.max_sequence_length == 128
    assert not prepared.request.cut_long_rows
    for longest, planned in ((900, 960), (1500, 1024)):
        prepared.run.write_dataset(DATASET.model_copy(update={"longest_row_tokens": longest, "tokens_are_exact": True}))
        longer = prepare_longer(prepared, claim=claimed, hardware=host(), rehearsals=Rehearsals(), control=control)
        assert longer.request.plan.max_sequence_length == planned


@pytest.mark.parametrize("why", ["asked", "exact", "pinned"])
def test_a_length_that_is_no_guess_stands(preparing: Callable[..., PreparedRun], why: str) -> None:
    claimed = claim()
    changes: dict[str, object] = {
        "asked": {"spec": SPEC.model_copy(update={"max_seq_length": 128})},
        "exact": {"dataset": DATASET.model_copy(update={"tokens_are_exact": True})},
        "pinned": {"is_plan_pinned": True},
    }[why]
    assert preparing(claimed.model_copy(update=changes), host()).request.cut_long_rows


def test_a_job_that_fits_no_longer_is_given_back_with_the_numbers(preparing: Callable[..., PreparedRun]) -> None:
    with pytest.raises(JobFailure) as refusal:
        preparing(claim(), host(free_bytes=10 * 1024**2))
    failure = refusal.value.failure
    assert (failure.code, failure.category, failure.retryable) == ("does_not_fit_now", Category.TRANSIENT, True)
    assert "GiB" in failure.message


def test_a_run_that_the_disk_cannot_hold_fetches_nothing(
    preparing: Callable[..., PreparedRun], service: ScriptedService
) -> None:
    giant = ref("weights.safetensors", b"w").model_copy(update={"bytes": 1 << 50})
    with pytest.raises(JobFailure) as refusal:
        preparing(claim(model_files=(giant,)), host())
    assert refusal.value.failure.category is Category.DISK_FULL
    assert "GiB are free" in refusal.value.failure.message
    assert not any(request.method == "GET" for request in service.requests)


def test_what_a_newer_service_adds_deep_inside_a_claim_is_ignored() -> None:
    given = claim()
    answer = given.model_dump(mode="json")
    answer["plan"]["memory"]["added_in_a_later_version"] = 1

    assert read_answer(Claim, json.dumps(answer).encode()) == given
