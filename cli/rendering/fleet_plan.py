"""Planning on the workers that are there: what is asked of the service, and its answer as a table."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tunesmith.cli import output
from tunesmith.cli.job_options.learning import LearningOptions
from tunesmith.cli.learning import is_file_id
from tunesmith.cli.rendering.plan_text import explain
from tunesmith.tuning.values.json_objects import Json
from tunesmith.tuning.values.units import GIB, plural, span

if TYPE_CHECKING:
    from tunesmith.tuning.api.plans import PlanAnswer, PlanEntry
    from tunesmith.tuning.datasets.rows import RowReport
    from tunesmith.tuning.plan import Lora, Plan


def check_rows(path: Path) -> "RowReport":
    """Count the rows of a training file, in bounded memory.

    Raises:
        InvalidTrainingFile: with the lines that cannot be trained on.
    """
    from tunesmith.cli.data.conversion import as_json_lines
    from tunesmith.tuning.datasets.rows import RowChecker
    from tunesmith.tuning.errors import InvalidTrainingFile

    checker = RowChecker()
    with as_json_lines(path) as lines, lines.open("rb") as file:
        while piece := file.read(1 << 20):
            checker.feed(piece)
    report = checker.finish()
    if report.problem_count:
        raise InvalidTrainingFile(f"{path.name}: {report.summary}", param="training_file")
    return report


def request_for(source: str | None, *, model: str, numbers: Json, asked: LearningOptions, more: Json) -> Json:
    """The body of the request. A local file is counted here, and only the counts are sent.

    `numbers` stand for a file that is not there, `more` are further fields of ours.

    Raises:
        InvalidTrainingFile: with the lines that cannot be trained on.
    """
    ours, learning = asked.ours | more, asked.learning
    if source is None:
        given = {name: value for name, value in numbers.items() if value is not None}
        return {"model": model, **learning.fields, "tunesmith": {**ours, **given}}
    if is_file_id(source):
        held_out = asked.validation_source
        known = {"validation_file": held_out} if held_out is not None and is_file_id(held_out) else {}
        return {"model": model, "training_file": source, **known, **learning.fields, "tunesmith": ours}
    report = check_rows(Path(source))
    output.note(describe_rows(Path(source).name, report))
    facts = report.facts(validation_rows=validation_rows(asked))
    counts = facts.model_dump(exclude={"tokens_are_exact"})
    return {"model": model, **learning.of_rows(report.kind).fields, "tunesmith": {**ours, "dataset": counts}}


def validation_rows(asked: LearningOptions) -> int:
    """How many rows the file here has that is only measured on; 0 where there is none, or the service has it.

    Raises:
        InvalidTrainingFile: with the lines that cannot be used.
    """
    source = asked.validation_source
    return 0 if source is None or is_file_id(source) else check_rows(Path(source)).rows


def describe_rows(name: str, report: "RowReport") -> str:
    """`support.jsonl  8,412 rows, chat, 3.90M tokens (2.60M to learn), longest 2,310, 0 bad`."""
    from tunesmith.tuning.values.units import count

    return (
        f"{name}  {plural(report.rows, 'row')}, {report.format}, {count(report.tokens)} tokens "
        f"({count(report.supervised_tokens)} to learn), longest {report.longest_row_tokens:,}, "
        f"{report.problem_count} bad"
    )


def show(answer: "PlanAnswer", *, price: float | None, why: bool, stream: TextIO | None = None) -> None:
    """The table of the fleet on stdout unless told otherwise; the recipe and the reasons beside it."""
    for warning in answer.warnings:
        output.note(f"warning: {warning}")
    if not answer.data:
        output.note("No worker is connected; start one, or name hardware with --on.")
        return
    shows_cost = price is not None or any(entry.cost is not None for entry in answer.data)
    money = ("COST",) if shows_cost else ()
    columns = ("FLEET", "METHOD", "FITS", "PEAK / FREE GIB", "TIME", "STARTS", *money, "WHY")
    output.table(columns, [_row(entry, price=price, shows_cost=shows_cost) for entry in answer.data], stream=stream)
    recommended = next((entry.plan for entry in answer.data if entry.worker_class == answer.chosen), None)
    if recommended is None:
        for entry in answer.data:
            output.note(f"\n{output.bold(entry.worker_class)}\n  {entry.refusal}")
        return
    output.note(f"\nrecipe  {recipe(recommended)}")
    for line in explain(recommended, why=why):
        output.note(line)


def recipe(plan: "Plan") -> str:
    """`rank 16, alpha 32, all-linear, lr 2.9e-04, 3 epochs, 64 rows per step, 8,192 tokens per micro-step`."""
    return ", ".join(
        (
            *_adapter_words(plan.lora),
            f"lr {plan.learning_rate:.2g}",
            plural(plan.epochs, "epoch"),
            f"{plural(plan.rows_per_step, 'row')} per step",
            f"{plan.tokens_per_micro_step:,} tokens per micro-step",
        )
    )


def _row(entry: "PlanEntry", *, price: float | None, shows_cost: bool) -> list[str]:
    plan = entry.plan
    if plan is None:
        money = [""] if shows_cost else []
        why = entry.reasons[0].text if entry.reasons else entry.refusal or ""
        return [entry.worker_class, "", "no", _peak_text(entry), "", "", *money, why]
    return [
        entry.worker_class,
        plan.method.value,
        "yes",
        _peak_text(entry),
        span(plan.time.seconds_low, plan.time.seconds_high),
        _start_text(entry.expected_start_seconds),
        *([_cost_text(entry, price=price)] if shows_cost else []),
        entry.reasons[0].text,
    ]


def _cost_text(entry: "PlanEntry", *, price: float | None) -> str:
    """By the price given here, else by the service's own."""
    cost = entry.gpu_hours * price if price is not None and entry.gpu_hours is not None else entry.cost
    return "" if cost is None else f"{cost:,.2f}"


def _peak_text(entry: "PlanEntry") -> str:
    peak = entry.predicted_peak_bytes
    return f"{f'{peak / GIB:.1f}' if peak else '?'} / {entry.free_bytes / GIB:.1f}"


def _start_text(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return "now" if seconds == 0 else f"~{output.duration(seconds)}"


def _adapter_words(lora: "Lora | None") -> Iterator[str]:
    if lora is None:
        return
    targets = lora.target_modules
    yield f"rank {lora.rank}"
    yield f"alpha {lora.alpha:g}"
    yield targets if isinstance(targets, str) else "+".join(targets)
