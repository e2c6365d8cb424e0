"""The verb `audit`: who did what when."""

import json
from typing import Annotated

import typer

from tunesmith.cli import output
from tunesmith.cli.verbs.options import Listed, ListFormat
from tunesmith.tuning.values.json_objects import Json


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command(rich_help_panel="The service")(audit)


def audit(
    *,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 50,
    form: Listed = ListFormat.TABLE,
) -> None:
    """List what was done to keys, projects, workers and models, and by whom."""
    from tunesmith.cli.access.client import AdminClient

    with AdminClient() as client:
        page = client.audit(limit=limit)
    if form is ListFormat.JSON:
        output.as_json(page.data)
        return
    rows = [
        (output.moment(entry.at), entry.actor, entry.action, entry.subject, _details(entry.details))
        for entry in page.data
    ]
    output.table(("WHEN", "WHO", "WHAT", "TO", "MORE"), rows)


def _details(details: Json) -> str:
    """`name=gpu, role=worker`."""
    return ", ".join(f"{name}={_word(value)}" for name, value in details.items())


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
