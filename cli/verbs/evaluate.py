"""The verb `eval`: measure a model on rows, alone or beside another, and say whether it is better."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli import output
from tunesmith.cli.row_files import file_id, require_source
from tunesmith.cli.verbs.options import Listed, ListFormat, Timeout
from tunesmith.tuning.values.json_objects import Json, present

if TYPE_CHECKING:
    from tunesmith.cli.client import Client
    from tunesmith.tuning.api.comparisons.evaluations import EvaluationObject

_SCORES = "exact, json, regex:PATTERN, json_schema:FILE or choice:LABEL,LABEL"
_SHOWN_ROWS = 3


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command("eval", rich_help_panel="Jobs")(evaluate)


def score_of(text: str) -> Json:
    """A score as the API takes it.

    Raises:
        typer.BadParameter: no score is written so, or the schema's file cannot be read.
    """
    kind, separator, rest = text.partition(":")
    if kind in ("exact", "json") and not separator:
        return {"type": kind}
    if kind == "regex" and rest:
        return {"type": kind, "pattern": rest}
    if kind == "choice" and rest:
        return {"type": kind, "labels": [label.strip() for label in rest.split(",")]}
    if kind == "json_schema" and rest:
        return {"type": kind, "json_schema": _read_schema(Path(rest))}
    raise typer.BadParameter(f"{text!r} is no score; write {_SCORES}.")


def evaluate(
    model: Annotated[str, typer.Argument(help="A base model, a fine-tuned one, a checkpoint, or an alias.")],
    data: Annotated[str, typer.Option(metavar="FILE", help="A JSONL file of rows, or the id of an uploaded one.")],
    against: Annotated[str | None, typer.Option(help="Compare with this model, or with its own `base`.")] = None,
    score: Annotated[Json | None, typer.Option(parser=score_of, metavar="SCORE", help=f"{_SCORES}.")] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="The most rows; the same for every model.")] = None,
    max_answer_tokens: Annotated[int | None, typer.Option(min=1, help="The most tokens of an answer.")] = None,
    confidence: Annotated[float | None, typer.Option(help="How sure a difference must be, 0.95 unless given.")] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write all of it as one page.")] = None,
    gate: Annotated[bool, typer.Option("--gate", help="Exit with 6 unless the model is better.")] = False,
    timeout: Timeout = None,
    form: Listed = ListFormat.TABLE,
) -> None:
    """Measure loss, token accuracy and answers of a model on rows, and compare it with another one."""
    from tunesmith.cli.client import Client
    from tunesmith.cli.exit_codes import ExitCode
    from tunesmith.cli.rendering.evaluation_text import warnings
    from tunesmith.cli.verbs.watch import watch_to_the_end

    require_source(data, "--data")
    if gate and against is None:
        raise typer.BadParameter("Only a comparison has a verdict: name --against too.", param_hint="--gate")
    wanted = present(model=model, against=against, score=score, rows=rows, max_answer_tokens=max_answer_tokens)
    rule = present(confidence=confidence)
    with Client() as client:
        found = client.create_evaluation({**wanted, "file": file_id(client, data), "gate": rule})
        output.note(found.id)
        for line in warnings(found):
            output.note(line)
        code = watch_to_the_end(client, found.id, timeout_seconds=timeout)
        if code != ExitCode.SUCCEEDED:
            raise typer.Exit(code)
        found = client.evaluation(found.id)
        _show(client, found, form)
        if report is not None:
            report.write_text(client.evaluation_report(found.id), encoding="utf-8")
            output.note(f"report in {report}")
    is_better = found.verdict is not None and found.verdict["word"] == "better"
    raise typer.Exit(int(ExitCode.GATE if gate and not is_better else ExitCode.SUCCEEDED))


def _show(client: "Client", found: "EvaluationObject", form: ListFormat) -> None:
    from tunesmith.cli.rendering.evaluation_text import describe

    if form is ListFormat.JSON:
        output.as_json(found)
        return
    worst = client.evaluated_rows(found.id, order="worst", limit=_SHOWN_ROWS)
    for line in describe(found, worst, is_warned=output.is_interactive(sys.stdout)):
        output.data(line)


def _read_schema(path: Path) -> Json:
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"the schema cannot be read: {error}.") from error
    if not isinstance(schema, dict):
        raise typer.BadParameter(f"{path} holds no JSON object.")
    return schema
