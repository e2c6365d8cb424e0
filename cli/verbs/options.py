"""Options that several verbs share, and the reading of their text."""

import re
from enum import StrEnum
from typing import Annotated

import typer

_UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class ListFormat(StrEnum):
    """What goes to stdout."""

    TABLE = "table"
    JSON = "json"


class Format(StrEnum):
    """The same of a verb that makes one thing, or that thing's id alone."""

    TABLE = "table"
    JSON = "json"
    ID = "id"


def seconds_of(text: str) -> float:
    """`90`, `90s`, `15m`, `4h` or `2d` in seconds.

    Raises:
        typer.BadParameter: anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a length of time; write it like 90s, 15m, 4h or 2d.")
    return float(match[1]) * _UNIT_SECONDS[match[2]]


def _complete_job(incomplete: str) -> list[tuple[str, str]]:
    from tunesmith.cli.job_names import complete_job

    return complete_job(incomplete)


JobName = Annotated[
    str,
    typer.Argument(
        metavar="JOB",
        help="Its id or a part of it, its name, its model or an alias of that.",
        autocompletion=_complete_job,
    ),
]
Listed = Annotated[ListFormat, typer.Option("--output", "-o", help="What to print on stdout.")]
Made = Annotated[Format, typer.Option("--output", "-o", help="What to print on stdout.")]
Timeout = Annotated[
    float | None,
    typer.Option(parser=seconds_of, metavar="TIME", help="Stop waiting after 90s, 15m or 4h; the job goes on."),
]
