"""The verb `submit`: upload what is not there yet, create one job, and wait for it when asked to."""

from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli import output
from tunesmith.cli.learning import learned
from tunesmith.cli.row_files import file_id, require_source
from tunesmith.cli.verbs.job_options import (
    BatchSizeOption,
    EpochsOption,
    Float8BaseOption,
    GoalOption,
    IdempotencyKeyOption,
    MethodOption,
    ObjectiveOption,
    OnDroppedContentOption,
    OnLongRowOption,
    PatienceOption,
    ValidationOption,
)
from tunesmith.cli.verbs.options import Format, Timeout, labels_of
from tunesmith.tuning.values.json_objects import Json, present
from tunesmith.tuning.words import Goal, Objective

if TYPE_CHECKING:
    from tunesmith.cli.client import Client
    from tunesmith.tuning.api.jobs import JobObject


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command(rich_help_panel="Jobs")(submit)


def submit(
    training: Annotated[str, typer.Argument(metavar="FILE", help="A JSONL file, or the id of an uploaded one.")],
    model: Annotated[str, typer.Option(help="A base model, see `tunesmith models ls`, or OWNER/NAME of the hub.")],
    validation: ValidationOption = None,
    method: MethodOption = "auto",
    goal: GoalOption = Goal.BALANCED,
    objective: ObjectiveOption = None,
    beta: Annotated[float | None, typer.Option(help="DPO: how strongly the model is held to where it was.")] = None,
    epochs: EpochsOption = None,
    batch_size: BatchSizeOption = None,
    learning_rate_multiplier: Annotated[float | None, typer.Option(help="Scales the rate the recipe chooses.")] = None,
    early_stopping_patience: PatienceOption = None,
    rank: Annotated[int | None, typer.Option(help="Rank of the adapter.")] = None,
    float8_base: Float8BaseOption = False,
    max_seq_length: Annotated[int | None, typer.Option(help="Longest row in tokens; longer ones are cut.")] = None,
    on_long_row: OnLongRowOption = "truncate",
    on_dropped_content: OnDroppedContentOption = "warn",
    suffix: Annotated[str | None, typer.Option(help="A word in the name of the result.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed, data and plan give the same result.")] = None,
    name: Annotated[str | None, typer.Option(help="Short for --metadata name=...")] = None,
    metadata: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="May be given many times.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end, one line per change.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for the end with a live view.")] = False,
    timeout: Timeout = None,
    idempotency_key: IdempotencyKeyOption = None,
    form: Annotated[Format, typer.Option("--output", "-o", help="What to print on stdout.")] = Format.TABLE,
) -> None:
    """Create a fine-tuning job from a JSONL file."""
    trains_on_all = validation == "none"
    if trains_on_all and early_stopping_patience is not None:
        raise typer.BadParameter("It needs held-out rows to measure on.", param_hint="--early-stopping-patience")
    if beta is not None and objective is not Objective.DPO:
        raise typer.BadParameter("It belongs to --objective dpo.", param_hint="--beta")
    hyperparameters = present(
        beta=beta,
        n_epochs=epochs,
        batch_size=batch_size,
        learning_rate_multiplier=learning_rate_multiplier,
        early_stopping_patience=early_stopping_patience,
    )
    ours = present(
        method=method,
        goal=goal,
        lora=present(rank=rank, float8_base=float8_base or None) or None,
        max_seq_length=max_seq_length,
        on_long_row=on_long_row,
        on_dropped_content=on_dropped_content,
        validation="none" if trains_on_all else None,
    )
    labels = labels_of(metadata, name=name)
    wanted = present(model=model, suffix=suffix, seed=seed, metadata=labels or None) | {"tunesmith": ours}
    wanted |= learned(objective, hyperparameters)
    files = _sources(training, None if trains_on_all else validation)
    raise typer.Exit(_submit(wanted, files, key=idempotency_key, wait=wait, follow=follow, timeout=timeout, form=form))


def _sources(training: str, validation: str | None) -> tuple[str, str | None]:
    require_source(training, "FILE")
    if validation is not None:
        require_source(validation, "--validation")
    return training, validation


def _submit(
    wanted: Json,
    files: tuple[str, str | None],
    *,
    key: str | None,
    wait: bool,
    follow: bool,
    timeout: float | None,
    form: Format,
) -> int:
    from tunesmith.cli.client import Client

    training, validation = files
    with Client() as client:
        job = _create(client, wanted, training=training, validation=validation, idempotency_key=key)
        _announce(job, form=form, is_waiting=wait or follow)
        return _wait(client, job, timeout=timeout, is_live=follow, form=form) if wait or follow else 0


def _create(
    client: "Client", wanted: Json, *, training: str, validation: str | None, idempotency_key: str | None
) -> "JobObject":
    import uuid

    from tunesmith.cli.models.fetch import create_job

    body = {**wanted, "training_file": file_id(client, training)}
    if validation is not None:
        body["validation_file"] = file_id(client, validation)
    return create_job(client, body, idempotency_key=idempotency_key or uuid.uuid4().hex)


def _announce(job: "JobObject", *, form: Format, is_waiting: bool) -> None:
    if form is Format.JSON and not is_waiting:
        output.as_json(job)
    elif form is Format.JSON:
        output.note(job.id)
    else:
        output.data(job.id)
    if form is Format.TABLE and not is_waiting:
        output.note(f"{job.status}; follow it with: tunesmith watch {job.id}")


def _wait(client: "Client", job: "JobObject", *, timeout: float | None, is_live: bool, form: Format) -> int:
    from tunesmith.cli.verbs.watch import watch_to_the_end

    code = watch_to_the_end(client, job.id, timeout_seconds=timeout, is_live=is_live)
    if form is Format.JSON:
        output.as_json(client.job(job.id))
    return code
