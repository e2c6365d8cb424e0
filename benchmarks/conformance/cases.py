"""What an `openai` client of any version is asked to do, each answer held strictly against the client's own models.

Run by the Python of each environment, which has the client and nothing of this project:
`python cases.py BASE_URL KEY MODEL SUCCEEDED_JOB`. Prints one JSON object with an outcome for each case.
"""

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import openai

AS_OPENAI = "ok"  # else the outcome says what was wrong
NOT_THERE = "not in this client"


@dataclass(frozen=True)
class Service:
    """What the cases are played against. `job` is one that has succeeded, with checkpoints."""

    client: openai.OpenAI
    base_url: str
    model: str
    job: str


def outcomes(service: Service) -> dict[str, str]:
    """By case: `ok`, or what was wrong."""
    return {name: _outcome(case, service) for name, case in CASES.items()}


def strictly(answer: Any) -> Any:
    """Return a raw answer's object, once its JSON fits the client's own model with no value converted.

    Raises:
        ValidationError: it does not.
    """
    parsed = answer.parse()
    text = answer.text if isinstance(answer.text, str) else answer.text()
    body = json.loads(text)
    # A page's class is the client's own; what it holds is checked one by one.
    for item, model in _parts(body, parsed):
        model.model_validate_json(json.dumps(item), strict=True)
    return parsed


def _parts(body: Any, parsed: Any) -> list[tuple[Any, Any]]:
    if isinstance(getattr(parsed, "data", None), list) and body.get("object") == "list":
        return [(item, type(made)) for item, made in zip(body["data"], parsed.data, strict=True)]
    return [(body, type(parsed))]


def _outcome(case: Callable[[Service], None], service: Service) -> str:
    try:
        case(service)
    except AttributeError as error:
        return f"{NOT_THERE}: {error}" if "object has no attribute" in str(error) else f"AttributeError: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return AS_OPENAI


def _expect(condition: object, what: str) -> None:
    if not condition:
        raise AssertionError(what)


def _rows(count: int = 20) -> bytes:
    said = [("user", "1 + 1?"), ("assistant", "2")]
    row = {"messages": [{"role": role, "content": text} for role, text in said]}
    return (json.dumps(row) + "\n").encode() * count


def _upload(service: Service) -> str:
    file = strictly(service.client.files.with_raw_response.create(file=("rows.jsonl", _rows()), purpose="fine-tune"))
    return str(file.id)


def _create(service: Service, **fields: Any) -> Any:
    """A job that is cancelled at once: what is asked of it needs no training."""
    jobs = service.client.fine_tuning.jobs
    job = strictly(jobs.with_raw_response.create(model=service.model, training_file=_upload(service), **fields))
    jobs.cancel(job.id)
    return job


def _refused(kind: type[openai.APIStatusError], call: Callable[[], object], *, code: str) -> None:
    try:
        call()
    except kind as error:
        _expect(error.code == code, f"code is {error.code}, not {code}")
        _expect(error.request_id, "no request id")
        return
    raise AssertionError(f"no {kind.__name__}")


def _file_upload(service: Service) -> None:
    _upload(service)


def _file_wait(service: Service) -> None:
    _expect(service.client.files.wait_for_processing(_upload(service)).status == "processed", "not processed")


def _file_content(service: Service) -> None:
    _expect(service.client.files.content(_upload(service)).read() == _rows(), "other bytes")


def _file_list(service: Service) -> None:
    made = [_upload(service) for _ in range(3)]
    strictly(service.client.files.with_raw_response.list(limit=2))
    seen = [file.id for file, _ in zip(service.client.files.list(limit=2), made, strict=False)]
    _expect(seen == made[::-1], "not newest first over pages")


def _file_retrieve_and_delete(service: Service) -> None:
    file = _upload(service)
    strictly(service.client.files.with_raw_response.retrieve(file))
    _expect(strictly(service.client.files.with_raw_response.delete(file)).deleted, "not deleted")
    _refused(openai.NotFoundError, lambda: service.client.files.retrieve(file), code="file_not_found")


def _file_bad_rows(service: Service) -> None:
    file = service.client.files.create(file=("rows.jsonl", b'{"mesages": []}\n'), purpose="fine-tune")
    strictly(service.client.files.with_raw_response.retrieve(file.id))
    _refused(
        openai.BadRequestError,
        lambda: service.client.fine_tuning.jobs.create(model=service.model, training_file=file.id),
        code="invalid_training_file",
    )


def _upload_in_parts(service: Service) -> None:
    uploads, data = service.client.uploads, _rows()
    size = {"bytes": len(data), "filename": "rows.jsonl", "mime_type": "application/jsonl", "purpose": "fine-tune"}
    made = strictly(uploads.with_raw_response.create(**size))
    parts = [
        strictly(uploads.parts.with_raw_response.create(made.id, data=piece)).id for piece in (data[:50], data[50:])
    ]
    done = strictly(uploads.with_raw_response.complete(made.id, part_ids=parts))
    _expect(done.file and done.file.bytes == len(data), "no whole file")
    other = uploads.create(**size)
    _expect(strictly(uploads.with_raw_response.cancel(other.id)).status == "cancelled", "not cancelled")


def _upload_chunked(service: Service) -> None:
    data = _rows()
    done = service.client.uploads.upload_file_chunked(
        file=io.BytesIO(data).getvalue(), filename="rows.jsonl", bytes=len(data), mime_type="application/jsonl",
        purpose="fine-tune",
    )  # fmt: skip
    _expect(done.file and done.file.bytes == len(data), "no whole file")


def _job_supervised(service: Service) -> None:
    chosen = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}}}
    job = _create(service, method=chosen, suffix="team", seed=7)
    _expect((job.seed, job.object) == (7, "fine_tuning.job"), "other values")


def _job_hyperparameters(service: Service) -> None:
    _expect(_create(service, hyperparameters={"n_epochs": 3}).hyperparameters.n_epochs == 3, "not 3 epochs")


def _job_dpo(service: Service) -> None:
    pair = {
        "input": {"messages": [{"role": "user", "content": "hi"}]},
        "preferred_output": [{"role": "assistant", "content": "hello"}],
        "non_preferred_output": [{"role": "assistant", "content": "no"}],
    }
    rows = (json.dumps(pair) + "\n").encode() * 12
    file = service.client.files.create(file=("pairs.jsonl", rows), purpose="fine-tune")
    jobs = service.client.fine_tuning.jobs
    chosen = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2}}}
    job = strictly(jobs.with_raw_response.create(model=service.model, training_file=file.id, method=chosen))
    jobs.cancel(job.id)
    _expect(job.method.type == "dpo", "not dpo")


def _job_reinforcement(service: Service) -> None:
    _refused(
        openai.BadRequestError,
        lambda: _create(service, method={"type": "reinforcement", "reinforcement": {}}),
        code="unsupported_value",
    )


def _job_integrations(service: Service) -> None:
    wanted = [{"type": "wandb", "wandb": {"project": "support", "tags": ["a"]}}]
    _expect(_create(service, integrations=wanted).integrations[0].wandb.project == "support", "not kept")


def _job_nulls(service: Service) -> None:
    _create(service, suffix=None, seed=None, validation_file=None, integrations=None)


def _job_metadata(service: Service) -> None:
    jobs, label = service.client.fine_tuning.jobs, {"team": _upload(service)}
    made = _create(service, metadata=label).id
    _expect([job.id for job in jobs.list(metadata=label)] == [made], "not found by its metadata")


def _job_extra_body(service: Service) -> None:
    job = _create(service, extra_body={"tunesmith": {"method": "lora", "lora": {"rank": 4}}})
    _expect("queue_position" in job.tunesmith, "no tunesmith in the answer")


def _job_list(service: Service) -> None:
    made = [_create(service).id for _ in range(3)]
    strictly(service.client.fine_tuning.jobs.with_raw_response.list(limit=2))
    seen = [job.id for job, _ in zip(service.client.fine_tuning.jobs.list(limit=1), made, strict=False)]
    _expect(seen == made[::-1], "not newest first over pages")


def _job_cancel(service: Service) -> None:
    jobs = service.client.fine_tuning.jobs
    job = jobs.create(model=service.model, training_file=_upload(service))
    _expect(strictly(jobs.with_raw_response.cancel(job.id)).id == job.id, "another job")


def _job_pause_and_resume(service: Service) -> None:
    jobs = service.client.fine_tuning.jobs
    job = jobs.create(model=service.model, training_file=_upload(service))
    try:  # `paused` is what OpenAI's own example answers, and is in no client's list of words: not held strictly
        jobs.pause(job.id)
        _expect(jobs.resume(job.id).id == job.id, "another job")
    finally:
        jobs.cancel(job.id)


def _job_succeeded(service: Service) -> None:
    job = strictly(service.client.fine_tuning.jobs.with_raw_response.retrieve(service.job))
    _expect(job.status == "succeeded" and job.fine_tuned_model and job.trained_tokens, "no result")
    _expect(service.client.files.content(job.result_files[0]).text.startswith("step,train_loss"), "no curve")


def _job_cancel_too_late(service: Service) -> None:
    cancel = service.client.fine_tuning.jobs.cancel
    _refused(openai.BadRequestError, lambda: cancel(service.job), code="invalid_state")


def _job_events(service: Service) -> None:
    jobs = service.client.fine_tuning.jobs
    strictly(jobs.with_raw_response.list_events(service.job, limit=100))
    events = list(jobs.list_events(service.job, limit=2))
    _expect(len({event.id for event in events}) == len(events) > 4, "pages overlap")
    steps = [event.data for event in events if event.type == "metrics"]
    _expect(all({"step", "total_steps"} <= set(data) for data in steps), "no progress in metrics")


def _job_checkpoints(service: Service) -> None:
    points = service.client.fine_tuning.jobs.checkpoints
    page = strictly(points.with_raw_response.list(service.job))
    _expect(":ckpt-step-" in page.data[0].fine_tuned_model_checkpoint, "no name")


def _checkpoint_permissions(service: Service) -> None:
    service.client.post("/projects/research", cast_to=object, body={})  # ours: OpenAI has projects elsewhere
    permissions = service.client.fine_tuning.checkpoints.permissions
    page = service.client.fine_tuning.jobs.checkpoints.list(service.job)
    name = page.data[0].fine_tuned_model_checkpoint
    made = strictly(permissions.with_raw_response.create(name, project_ids=["research"])).data[0]
    _expect((made.object, made.project_id) == ("checkpoint.permission", "research"), "another permission")
    listing = permissions.with_raw_response
    listed = strictly(listing.list(name) if hasattr(listing, "list") else listing.retrieve(name))
    _expect([one.id for one in listed.data] == [made.id], "not listed")
    deleted = permissions.with_raw_response.delete(made.id, fine_tuned_model_checkpoint=name)
    _expect(strictly(deleted).deleted, "not deleted")


def _models(service: Service) -> None:
    models = service.client.models
    strictly(models.with_raw_response.list())
    tuned = service.client.fine_tuning.jobs.retrieve(service.job).fine_tuned_model
    _expect(strictly(models.with_raw_response.retrieve(str(tuned))).id == tuned, "another model")


def _errors_400(service: Service) -> None:
    create = service.client.fine_tuning.jobs.create
    _refused(openai.BadRequestError, lambda: create(model="gpt-5", training_file="file-1"), code="model_not_found")


def _errors_unknown_key(service: Service) -> None:
    unknown: dict[str, Any] = {"extra_query": {"limt": 3}}
    _refused(openai.BadRequestError, lambda: service.client.fine_tuning.jobs.list(**unknown), code="unknown_parameter")


def _errors_401(service: Service) -> None:
    stranger = openai.OpenAI(base_url=service.base_url, api_key="nobody", max_retries=0)
    _refused(openai.AuthenticationError, lambda: list(stranger.models.list()), code="invalid_api_key")


def _errors_404(service: Service) -> None:
    _refused(
        openai.NotFoundError,
        lambda: service.client.fine_tuning.jobs.retrieve("ftjob-none"),
        code="fine_tuning_job_not_found",
    )


def _retry_makes_one_job(service: Service) -> None:
    file = _upload(service)
    jobs = service.client.fine_tuning.jobs
    first = jobs.create(model=service.model, training_file=file)
    again = jobs.create(model=service.model, training_file=file, extra_headers={"x-stainless-retry-count": "1"})
    jobs.cancel(first.id)
    _expect(first.id == again.id, "two jobs")


def _idempotency_key(service: Service) -> None:
    file = _upload(service)
    jobs, header = service.client.fine_tuning.jobs, {"Idempotency-Key": file}
    made = {jobs.create(model=service.model, training_file=file, extra_headers=header).id for _ in range(2)}
    for job in made:
        jobs.cancel(job)
    _expect(len(made) == 1, "two jobs")


CASES: dict[str, Callable[[Service], None]] = {
    "files: upload": _file_upload,
    "files: wait_for_processing": _file_wait,
    "files: content": _file_content,
    "files: list, three pages": _file_list,
    "files: retrieve, delete, 404": _file_retrieve_and_delete,
    "files: rows that cannot be used": _file_bad_rows,
    "uploads: parts, complete, cancel": _upload_in_parts,
    "uploads: upload_file_chunked": _upload_chunked,
    "jobs: supervised": _job_supervised,
    "jobs: deprecated hyperparameters": _job_hyperparameters,
    "jobs: dpo": _job_dpo,
    "jobs: reinforcement is refused": _job_reinforcement,
    "jobs: integrations": _job_integrations,
    "jobs: nulls": _job_nulls,
    "jobs: metadata filter": _job_metadata,
    "jobs: extra_body": _job_extra_body,
    "jobs: list, three pages": _job_list,
    "jobs: cancel": _job_cancel,
    "jobs: pause and resume": _job_pause_and_resume,
    "jobs: retrieve a result": _job_succeeded,
    "jobs: cancel too late is 400": _job_cancel_too_late,
    "jobs: events in pages": _job_events,
    "jobs: checkpoints": _job_checkpoints,
    "checkpoints: permissions": _checkpoint_permissions,
    "models: list, retrieve": _models,
    "errors: 400 with code and field": _errors_400,
    "errors: unknown key of a query": _errors_unknown_key,
    "errors: 401": _errors_401,
    "errors: 404": _errors_404,
    "retries: the client's own makes one job": _retry_makes_one_job,
    "retries: Idempotency-Key": _idempotency_key,
}


def main() -> None:
    base_url, key, model, job = sys.argv[1:]
    client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)
    print(json.dumps(outcomes(Service(client, base_url, model, job))))


if __name__ == "__main__":
    main()
