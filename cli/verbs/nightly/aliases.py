"""Verbs about aliases: aliases ls, set, rollback, history, rm."""

from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from tunesmith.cli import output
from tunesmith.cli.verbs.options import Listed, ListFormat
from tunesmith.tuning.values.json_objects import present

if TYPE_CHECKING:
    from tunesmith.tuning.api.nightly.aliases import AliasObject

app = typer.Typer(no_args_is_help=True, help="Names that stand for models, such as ft:support@prod.")

Name = Annotated[str, typer.Argument(metavar="ALIAS", help="As in ft:support@prod.")]
Reason = Annotated[str | None, typer.Option(help="Why, for the history.")]


@app.command()
def ls(form: Listed = ListFormat.TABLE) -> None:
    """List aliases with the models that they stand for."""
    from tunesmith.cli.client import Client
    from tunesmith.tuning.api.nightly.aliases import AliasList

    with Client() as client:
        found = client.ask(AliasList, "GET", "/aliases").data
    if form is ListFormat.JSON:
        output.as_json(found)
        return
    rows = [(alias.id, alias.model, alias.changes, output.moment(alias.updated_at)) for alias in found]
    output.table(("ALIAS", "MODEL", "CHANGES", "SINCE"), rows)


@app.command(name="set")
def set_alias(
    name: Name,
    model: Annotated[str, typer.Argument(help="The model that it stands for from now on.")],
    reason: Reason = None,
    expected: Annotated[
        str | None, typer.Option(help="What it must stand for until now, none for nothing; else nothing is changed.")
    ] = None,
) -> None:
    """Let an alias stand for a model: a promotion."""
    from tunesmith.cli.client import Client
    from tunesmith.tuning.api.nightly.aliases import AliasObject

    body = present(model=model, reason=reason)
    if expected is not None:
        body["expected"] = None if expected == "none" else expected
    with Client() as client:
        _told(client.ask(AliasObject, "PUT", _path(name), json=body))


@app.command()
def rollback(
    name: Name,
    reason: Reason = None,
    expected: Annotated[str | None, typer.Option(help="What it must stand for until now.")] = None,
) -> None:
    """Let an alias stand for what it stood for before; again, and it goes one further back."""
    from tunesmith.cli.client import Client
    from tunesmith.tuning.api.nightly.aliases import AliasObject

    with Client() as client:
        body = present(reason=reason, expected=expected)
        _told(client.ask(AliasObject, "POST", f"{_path(name)}/roll_back", json=body))


@app.command()
def history(
    name: Name,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many, newest first.")] = 20,
    form: Listed = ListFormat.TABLE,
) -> None:
    """Show who let an alias stand for what, when and why."""
    from tunesmith.cli.client import Client
    from tunesmith.tuning.api.nightly.aliases import AliasChangeList

    with Client() as client:
        changes = client.ask(AliasChangeList, "GET", f"{_path(name)}/history", params={"limit": limit}).data
    if form is ListFormat.JSON:
        output.as_json(changes)
        return
    rows = [
        (change.number, output.moment(change.created_at), change.action, change.model, change.by, change.reason)
        for change in changes
    ]
    output.table(("NO", "WHEN", "WHAT", "MODEL", "BY", "WHY"), rows)


@app.command()
def rm(name: Name) -> None:
    """Let an alias stand for nothing; model and history stay."""
    from tunesmith.cli.client import Client
    from tunesmith.tuning.api.lists import Deleted

    with Client() as client:
        client.ask(Deleted, "DELETE", _path(name))
    output.note(f"removed {name}")


def _path(name: str) -> str:
    return f"/aliases/{quote(name, safe='')}"


def _told(alias: "AliasObject") -> None:
    output.data(alias.model)
    output.note(f"{alias.id} stands for {alias.model}")
