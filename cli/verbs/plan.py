"""The verb `plan`: what would run for how long and why, on the live workers, or on any hardware without a service."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tunesmith.cli import output
from tunesmith.cli.exit_codes import ExitCode
from tunesmith.cli.job_options.groups import with_groups
from tunesmith.cli.job_options.learning import LearningOptions
from tunesmith.cli.job_options.planned import (
    AccuracyOption,
    ConfigOption,
    DataOption,
    HardwareOption,
    HostMemoryOption,
    PlannedFile,
    PlannedModelOption,
    PriceOption,
    RowsOption,
    TableOption,
    TokensPerRowOption,
    WhyOption,
)
from tunesmith.cli.learning import Learning, is_file_id
from tunesmith.cli.row_files import require_source
from tunesmith.cli.verbs.options import Listed, ListFormat
from tunesmith.tuning.values.json_objects import Json
from tunesmith.tuning.values.units import GIB

if TYPE_CHECKING:
    from tunesmith.tuning.hardware import HardwareProfile
    from tunesmith.tuning.job import DatasetFacts, JobSpec
    from tunesmith.tuning.models.shape import ModelShape
    from tunesmith.tuning.plan import Plan, Refusal

_IS_OFFLINE = "With --on the file must be here: no service is asked."


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command(rich_help_panel="Jobs")(plan)


@with_groups(asked=LearningOptions)
def plan(
    *,
    training: PlannedFile = None,
    model: PlannedModelOption = None,
    config: ConfigOption = None,
    on: HardwareOption = None,
    host_memory: HostMemoryOption = None,
    data: DataOption = None,
    rows: RowsOption = None,
    tokens_per_row: TokensPerRowOption = None,
    asked: LearningOptions,
    price: PriceOption = None,
    table: TableOption = False,
    accuracy: AccuracyOption = False,
    why: WhyOption = False,
    form: Listed = ListFormat.TABLE,
) -> None:
    """Say what would run: method, memory, time and why; creates no job. Exit code 7 when nothing fits."""
    if accuracy:
        _accuracy(form=form)
        return
    source = _source(training, data, rows=rows, tokens_per_row=tokens_per_row)
    _check_validation(asked, source, is_offline=on is not None)
    if table and any(given is not None for given in (on, source, rows, tokens_per_row, host_memory)):
        raise typer.BadParameter("It is of a model alone, on no hardware and no data.", param_hint="--table")
    if on is None and not table:
        if host_memory is not None:
            raise typer.BadParameter("It belongs to --on: live workers report theirs.", param_hint="--host-memory")
        numbers = {"rows": rows, "tokens_per_row": tokens_per_row}
        _on_the_fleet(model, source, numbers=numbers, asked=asked, price=price, why=why, form=form)
        return
    shape, name = _shape(model, config), model or str(config)
    if on is None:
        _memory_tables(name, shape, form=form)
        return
    from tunesmith.tuning.datasets.assumptions import explain_assumptions
    from tunesmith.tuning.planner.checks import check_targets

    dataset, kind = _dataset(source, asked, rows=rows, tokens_per_row=tokens_per_row, shape=shape)
    spec = _spec(name, asked.ours, asked.learning.of_rows(kind) if kind else asked.learning)
    check_targets(spec, shape)
    machines = {name: _machine(name, host_memory_gib=host_memory) for name in _names(on)}
    if source is None:
        output.note(explain_assumptions(dataset, tokens_per_row=tokens_per_row))
    _on_machines(machines, spec=spec, shape=shape, dataset=dataset, price=price, why=why, form=form)


def _on_machines(
    machines: "dict[str, HardwareProfile]",
    *,
    spec: "JobSpec",
    shape: "ModelShape",
    dataset: "DatasetFacts",
    price: float | None,
    why: bool,
    form: ListFormat,
) -> None:
    from tunesmith.tuning.datasets.held_out import with_held_out_rows

    dataset = with_held_out_rows(dataset, spec)
    answers = {name: _choose(machine, spec=spec, shape=shape, dataset=dataset) for name, machine in machines.items()}
    if form is ListFormat.JSON:
        output.as_json([_as_json(name, answer, price=price) for name, answer in answers.items()])
    else:
        _print(answers, spec=spec, shape=shape, dataset=dataset, price=price, why=why)
    if not any(_is_plan(answer) for answer in answers.values()):
        raise typer.Exit(int(ExitCode.REJECTED))


def _shape(model: str | None, config: Path | None) -> "ModelShape":
    from tunesmith.cli.models.measure import with_shape
    from tunesmith.cli.models.shapes import read_config, recall
    from tunesmith.tuning.models.catalogue import find_model
    from tunesmith.tuning.models.shape import ModelShape

    if (model is None) == (config is None):
        raise typer.BadParameter("Give either --model or --config.", param_hint="--model")
    if config is not None:
        return ModelShape.from_config(with_shape(read_config(config)))
    assert model is not None  # noqa: S101  the check above
    own = recall(model)
    if own is not None:
        return ModelShape.from_config(own)
    known = find_model(model)
    if known.note:
        output.note(f"note: {known.note}")
    return known.shape


def _source(training: str | None, data: str | None, *, rows: int | None, tokens_per_row: int | None) -> str | None:
    if training is not None and data is not None:
        raise typer.BadParameter("Name the file once: as FILE or with --data.", param_hint="--data")
    source = training if data is None else data
    if source is not None and rows is not None:
        raise typer.BadParameter("Give either a file or --rows.", param_hint="--rows")
    if source is not None and tokens_per_row is not None:
        raise typer.BadParameter("The rows of a file are counted.", param_hint="--tokens-per-row")
    if source is not None:
        require_source(source, "FILE" if data is None else "--data")
    return source


def _check_validation(asked: LearningOptions, source: str | None, *, is_offline: bool) -> None:
    if asked.trains_on_all and asked.early_stopping_patience is not None:
        raise typer.BadParameter("It needs held-out rows to measure on.", param_hint="--early-stopping-patience")
    held_out = asked.validation_source
    if held_out is None:
        return
    if source is None:
        message = "Rows to measure on belong to a FILE to train on; without one a tenth is held out."
        raise typer.BadParameter(message, param_hint="--validation")
    require_source(held_out, "--validation")
    if is_offline and is_file_id(held_out):
        raise typer.BadParameter(_IS_OFFLINE, param_hint="--validation")


def _on_the_fleet(
    model: str | None,
    source: str | None,
    *,
    numbers: dict[str, int | None],
    asked: LearningOptions,
    price: float | None,
    why: bool,
    form: ListFormat,
) -> None:
    if model is None:
        message = "Name a model of the service; one that is not there needs --on too."
        raise typer.BadParameter(message, param_hint="--model")
    if source is None and numbers["rows"] is None:
        message = "Say what to train on, FILE or --rows; or name hardware, such as 1xRTX4090, with --on."
        raise typer.BadParameter(message, param_hint="FILE")
    from tunesmith.cli.client import Client
    from tunesmith.cli.rendering.fleet_plan import request_for, show

    body = request_for(source, model=model, numbers=numbers, asked=asked, more={})
    with Client() as client:
        answer = client.plan(body)
    if form is ListFormat.JSON:
        output.as_json(answer)
    else:
        show(answer, price=price, why=why)
    if not any(entry.fits for entry in answer.data):
        raise typer.Exit(int(ExitCode.REJECTED))


def _accuracy(*, form: ListFormat) -> None:
    from tunesmith.cli.client import Client
    from tunesmith.cli.rendering.accuracy import show_accuracy

    with Client() as client:
        answer = client.plan_accuracy()
    if form is ListFormat.JSON:
        output.as_json(answer)
    else:
        show_accuracy(answer)


def _dataset(
    source: str | None, asked: LearningOptions, *, rows: int | None, tokens_per_row: int | None, shape: "ModelShape"
) -> "tuple[DatasetFacts, str | None]":
    """The counts, and for which objective the rows of a file are."""
    from tunesmith.cli.rendering.fleet_plan import check_rows, validation_rows
    from tunesmith.tuning.datasets.assumptions import ROWS, assumed_dataset

    if source is None:
        longest, given = asked.max_seq_length, rows or ROWS
        facts = assumed_dataset(shape, rows=given, tokens_per_row=tokens_per_row, longest_row_tokens=longest)
        return facts, None
    if not Path(source).is_file():
        raise typer.BadParameter(_IS_OFFLINE, param_hint="FILE")
    report = check_rows(Path(source))
    return report.facts(validation_rows=validation_rows(asked)), report.kind


def _spec(name: str, ours: Json, learning: Learning) -> "JobSpec":
    """The job, held to the same bounds as by the service.

    Raises:
        InvalidRequest: a number is out of bounds.
    """
    from pydantic import ValidationError

    from tunesmith.tuning.errors import InvalidRequest
    from tunesmith.tuning.job import JobSpec

    objective = {} if learning.objective is None else {"objective": learning.objective.value}
    asked = {**ours, **objective, "model": name, "hyperparameters": learning.hyperparameters, "seed": 0}
    try:
        return JobSpec.model_validate(asked)
    except ValidationError as error:
        problem = error.errors(include_url=False)[-1]
        raise InvalidRequest(f"{problem['msg']}.", param=_path_in(asked, problem["loc"])) from None


def _path_in(asked: Json, loc: tuple[str | int, ...]) -> str:
    """The part of pydantic's location that is a field: the rest names members of unions."""
    names: list[str] = []
    value: Any = asked
    for part in loc:
        if not isinstance(value, dict) or part not in value:
            break
        names, value = [*names, str(part)], value[part]
    return ".".join(names)


def _names(on: str) -> list[str]:
    names = [name.strip() for name in on.split(",") if name.strip()]
    if not names:
        raise typer.BadParameter("Name the hardware, such as 1xRTX4090.", param_hint="--on")
    return names


def _machine(name: str, *, host_memory_gib: float | None) -> "HardwareProfile":
    from tunesmith.tuning.hardware_facts.gpus import what_if

    return what_if(name, host_memory_bytes=None if host_memory_gib is None else int(host_memory_gib * GIB))


def _choose(
    machine: "HardwareProfile", *, spec: "JobSpec", shape: "ModelShape", dataset: "DatasetFacts"
) -> "Plan | Refusal":
    from tunesmith.tuning.planner.choose import choose

    return choose(spec=spec, shape=shape, dataset=dataset, hardware=machine)


def _print(
    answers: "dict[str, Plan | Refusal]",
    *,
    spec: "JobSpec",
    shape: "ModelShape",
    dataset: "DatasetFacts",
    price: float | None,
    why: bool,
) -> None:
    from tunesmith.cli.rendering.plan_text import explain
    from tunesmith.tuning.values.units import count

    output.note(
        f"{shape.family}, {count(shape.parameters)} parameters; {_rows(dataset, spec)}, "
        f"{count(dataset.tokens)} tokens to train on ({count(dataset.supervised_tokens)} of them to learn), "
        f"longest row {dataset.longest_row_tokens:,}{_limit(dataset, spec)}"
    )
    money = ["COST"] if price else []
    columns = ["HARDWARE", "METHOD", "FITS", "PEAK / FREE GIB", "TIME", "GPU HOURS", *money, "WHY"]
    output.table(columns, [_row(name, answer, price=price) for name, answer in answers.items()])
    for name, answer in answers.items():
        output.note()
        output.note(output.bold(name))
        for line in explain(answer, why=why):
            output.note(line)


def _row(name: str, answer: "Plan | Refusal", *, price: float | None) -> list[str]:
    from tunesmith.cli.rendering.plan_text import method_text
    from tunesmith.tuning.plan import Plan
    from tunesmith.tuning.values.units import span

    money = [""] if price else []
    if not isinstance(answer, Plan):
        return [name, "", "no", _peak_of_refusal(answer), "", "", *money, answer.reasons[0].text]
    memory, time = answer.memory, answer.time
    if price:
        money = [_small(_gpu_hours(answer) * price)]
    peak = f"{memory.total_bytes / GIB:.1f} / {memory.budget_bytes / GIB:.1f}"
    hours = _small(_gpu_hours(answer)) if answer.device == "cuda" else ""
    took = span(time.seconds_low, time.seconds_high)
    return [name, method_text(answer), "yes", peak, took, hours, *money, answer.reasons[0].text]


def _small(number: float) -> str:
    """Two decimals, or what is left of less than a hundredth."""
    return f"{number:.1g}" if 0 < number < 0.005 else f"{number:,.2f}"


def _rows(dataset: "DatasetFacts", spec: "JobSpec") -> str:
    from tunesmith.tuning.values.units import plural
    from tunesmith.tuning.words import Objective

    held_out = f" ({dataset.held_out_rows:,} held out)" if dataset.held_out_rows else ""
    noun = "preference pair" if spec.objective is Objective.DPO else "row"
    return f"{plural(dataset.all_rows, noun)}{held_out}"


def _limit(dataset: "DatasetFacts", spec: "JobSpec") -> str:
    """That the counts beside it are those of rows which are cut, or which the job does not take."""
    limit = spec.max_seq_length
    if limit == "auto" or limit >= dataset.longest_row_tokens:
        return ""
    return f", to be cut at {limit:,}" if spec.on_long_row == "truncate" else f", and no more than {limit:,} are taken"


def _peak_of_refusal(answer: "Refusal") -> str:
    """What the method of the first reason wants at least."""
    return f"{answer.alternatives[0].peak_bytes / GIB:.1f}+" if answer.alternatives else ""


def _gpu_hours(answer: "Plan") -> float:
    return answer.time.seconds * answer.world_size / 3600


def _is_plan(answer: "Plan | Refusal") -> bool:
    from tunesmith.tuning.plan import Plan

    return isinstance(answer, Plan)


def _as_json(name: str, answer: "Plan | Refusal", *, price: float | None) -> dict[str, Any]:
    from tunesmith.tuning.plan import Plan

    body = {"hardware": name, "fits": isinstance(answer, Plan)}
    if not isinstance(answer, Plan):
        return body | {"refusal": answer.model_dump(mode="json")}
    hours = _gpu_hours(answer)
    cost = {"cost": round(hours * price, 2)} if price else {}
    return body | {"gpu_hours": hours, **cost, "plan": answer.model_dump(mode="json")}


def _memory_tables(name: str, shape: "ModelShape", *, form: ListFormat) -> None:
    from tunesmith.cli.rendering.plan_text import method_text
    from tunesmith.tuning.planner.reference_tables import MACHINES, smallest_machine, training_memory
    from tunesmith.tuning.words import Method

    rows: list[tuple[str, int, str | None, int | None, str]] = []
    for method in Method:
        smallest = smallest_machine(shape, method)
        layout = method_text(smallest.plan) if smallest else ""
        machine = smallest.machine if smallest else None
        each = smallest.plan.memory.budget_bytes if smallest else None
        rows.append((method.value, training_memory(shape, method), machine, each, layout))
    if form is ListFormat.JSON:
        keys = ("method", "peak_bytes_on_one_gpu", "smallest_machine", "free_bytes_on_each", "layout")
        output.as_json({"model": name, "methods": [dict(zip(keys, row, strict=True)) for row in rows]})
        return
    output.note(
        f"{name}: the peak is that of one GPU, 2,048 tokens a micro-step, full recomputation, rank 16; the machine is "
        f"the smallest of {len(MACHINES)} that holds it, shared out or with 8-bit moments where the layout says so"
    )
    columns = ("METHOD", "PEAK GIB", "SMALLEST MACHINE", "GIB ON EACH", "LAYOUT")
    none = f"none up to {MACHINES[-1]}"
    output.table(columns, [(row[0], _gib(row[1]), row[2] or none, _gib(row[3]), row[4]) for row in rows])


def _gib(size_bytes: int | None) -> str:
    return "" if size_bytes is None else f"{size_bytes / GIB:,.1f}"
