"""The verb `data check`: what is in a training file, before anything is sent or paid for."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli import output
from tunesmith.cli.verbs.options import Listed, ListFormat

if TYPE_CHECKING:
    from tunesmith.cli.doctor.check import CheckedData
    from tunesmith.cli.doctor.tokenizers import RowLengths

app = typer.Typer(no_args_is_help=True, help="Training files on this machine.")


@app.callback()
def _group() -> None:
    """Keep `check` a word of its own while it is the only one."""


@app.command()
def check(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="JSONL, CSV, Parquet, JSON.")
    ],
    model: Annotated[
        str | None, typer.Option(help="A model's folder or registered name: its tokenizer counts.")
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(metavar="FILE", exists=True, dir_okay=False, help="A file that is only measured on.")
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(metavar="HARDWARE", help="Price a run on this machine, such as 1xA10G; wants a folder."),
    ] = None,
    preview: Annotated[int, typer.Option(min=0, max=20, help="With --model: rows to show with what is taught.")] = 0,
    form: Listed = ListFormat.TABLE,
) -> None:
    """Check every row: form, lengths, repeats, overlap, secrets; nothing is sent. Exit code 7 if a row is bad."""
    from contextlib import ExitStack

    from tunesmith.cli.data.conversion import as_json_lines
    from tunesmith.cli.doctor.check import check_files
    from tunesmith.cli.doctor.tokenizers import RowLengths, tokenizer_folder
    from tunesmith.cli.exit_codes import ExitCode

    if model is None and (preview or on):
        raise typer.BadParameter("It needs --model.", param_hint="--preview" if preview else "--on")
    with ExitStack() as opened:
        rows = opened.enter_context(as_json_lines(file))
        held_out = opened.enter_context(as_json_lines(validation)) if validation else None
        folder = opened.enter_context(tokenizer_folder(model)) if model else None
        lengths = RowLengths(folder) if folder else None
        checked = check_files(rows, held_out, seen=lengths.see if lengths else lambda _: None)
        if form is ListFormat.JSON:
            output.as_json(_as_json(checked, lengths))
        else:
            _show(checked, lengths, model=model)
            if folder and checked.is_usable:
                _show_more(rows, folder, checked, preview=preview, on=on)
    if not checked.is_usable:
        raise typer.Exit(int(ExitCode.REJECTED))


def _show(checked: "CheckedData", lengths: "RowLengths | None", *, model: str | None) -> None:
    from tunesmith.cli.data.report_text import histogram_lines, report_lines

    for line in report_lines(checked.training):
        output.data(line)
    if lengths and model:
        for line in histogram_lines(lengths.histogram, tokenizer=model, all_rows=checked.training.rows):
            output.data(line)
    if checked.validation is None:
        return
    output.data("validation:")
    for line in report_lines(checked.validation):
        output.data(f"  {line}")
    if checked.is_the_same_twice:
        output.note("warning: every validation row is trained on; what is measured on them says nothing")


def _show_more(rows: Path, folder: Path, checked: "CheckedData", *, preview: int, on: str | None) -> None:
    from tunesmith.cli.doctor.cost import cost_line
    from tunesmith.cli.doctor.preview import mask_lines

    if on:
        output.data(cost_line(folder, checked.training.facts(), on=on))
    for line in mask_lines(rows, model=folder, count=preview) if preview else ():
        output.data(line)


def _as_json(checked: "CheckedData", lengths: "RowLengths | None") -> dict[str, Any]:
    histogram = lengths.histogram if lengths else None
    return {
        "training": checked.training.model_dump(mode="json"),
        "validation": checked.validation.model_dump(mode="json") if checked.validation else None,
        "same_file_twice": checked.is_the_same_twice,
        "tokens": histogram
        and {
            "rows": histogram.rows,
            "tokens": histogram.tokens,
            "longest_row_tokens": histogram.longest,
            "row_length_counts": histogram.counts,
            "cuts": [cut._asdict() for cut in histogram.cuts],
        },
    }
