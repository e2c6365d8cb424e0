"""The reading of what options take as text or number."""

import math

import typer


def finite(value: float | None) -> float | None:
    """The same number, which no comparison with a bound can tell from what is not a number.

    Raises:
        typer.BadParameter: it is not one.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a number.")
    return value


def labels_of(pairs: list[str] | None, *, name: str | None = None) -> dict[str, str]:
    """`KEY=VALUE` after `KEY=VALUE`, and `name` as one of them.

    Raises:
        typer.BadParameter: one is not written so.
    """
    labels = {"name": name} if name is not None else {}
    for pair in pairs or []:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE.", param_hint="--metadata")
        labels[key] = value
    return labels
