"""Verbs about webhooks: where events are sent, and what came of it."""

from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli import output
from tunesmith.cli.verbs.options import Listed, ListFormat
from tunesmith.tuning.words import WebhookEventType

if TYPE_CHECKING:
    from tunesmith.tuning.api.webhooks.deliveries import DeliveryObject
    from tunesmith.tuning.api.webhooks.endpoints import EndpointObject, EndpointWithSecret

app = typer.Typer(no_args_is_help=True, help="Addresses that are told what became of jobs.")

EndpointId = Annotated[
    str, typer.Argument(metavar="ENDPOINT", help="The endpoint's id, as `create` and `ls` print it.")
]


def register(parent: typer.Typer) -> None:
    """Add the group to the command."""
    parent.add_typer(app, name="webhooks", rich_help_panel="The service")


@app.command()
def create(
    url: Annotated[str, typer.Argument(metavar="URL", help="http or https, to a public address.")],
    name: Annotated[str, typer.Option(help="A name for people.")] = "webhook",
    event: Annotated[list[WebhookEventType] | None, typer.Option(help="May be given many times; else all.")] = None,
    form: Listed = ListFormat.TABLE,
) -> None:
    """Have events sent to a URL. Prints the secret that they are signed with: this once."""
    from tunesmith.cli.webhook_client import WebhookClient

    with WebhookClient() as client:
        made = client.create_endpoint(name=name, url=url, event_types=event or list(WebhookEventType))
    _print_secret(made, form=form)


@app.command()
def ls(form: Listed = ListFormat.TABLE) -> None:
    """List endpoints, newest first."""
    from tunesmith.cli.webhook_client import WebhookClient

    with WebhookClient() as client:
        found = client.list_endpoints()
    if form is ListFormat.JSON:
        output.as_json(found)
        return
    rows = [(item.id, _state(item), item.name, item.url, ", ".join(item.event_types)) for item in found]
    output.table(("ID", "STATE", "NAME", "URL", "EVENTS"), rows)


@app.command()
def get(endpoint_id: EndpointId, form: Listed = ListFormat.TABLE) -> None:
    """Show one endpoint, with why it is disabled if it is."""
    from tunesmith.cli.webhook_client import WebhookClient

    with WebhookClient() as client:
        found = client.endpoint(endpoint_id)
    _print(found, form=form)


@app.command()
def enable(endpoint_id: EndpointId) -> None:
    """Send events to it again; what waited for it goes on."""
    _set(endpoint_id, enabled=True)


@app.command()
def disable(endpoint_id: EndpointId) -> None:
    """Send nothing to it. What happens meanwhile is not sent later."""
    _set(endpoint_id, enabled=False)


@app.command("rotate-secret")
def rotate_secret(
    endpoint_id: EndpointId,
    keep_old: Annotated[bool, typer.Option("--keep-old", help="The old one signs beside it for a day.")] = False,
    form: Listed = ListFormat.TABLE,
) -> None:
    """Give it a new secret, and print it: this once."""
    from tunesmith.cli.webhook_client import WebhookClient

    with WebhookClient() as client:
        changed = client.rotate_secret(endpoint_id, keep_old=keep_old)
    _print_secret(changed, form=form)


@app.command("test")
def try_out(
    endpoint_id: EndpointId,
    event: Annotated[WebhookEventType, typer.Option(help="The kind of event.")] = WebhookEventType.JOB_SUCCEEDED,
) -> None:
    """Send a made-up event now. Exit code 6 when the answer is no success."""
    from tunesmith.cli.exit_codes import ExitCode
    from tunesmith.cli.webhook_client import WebhookClient

    with WebhookClient() as client:
        result = client.test_endpoint(endpoint_id, event)
    output.data(f"{result.event_type}  answered {result.status_code}")
    if not 200 <= result.status_code < 300:
        raise typer.Exit(ExitCode.GATE)


@app.command()
def rm(endpoint_id: EndpointId) -> None:
    """Delete it, its log, and what waits for it."""
    from tunesmith.cli.webhook_client import WebhookClient

    with WebhookClient() as client:
        client.delete_endpoint(endpoint_id)
    output.note(f"removed {endpoint_id}")


@app.command()
def deliveries(
    endpoint_id: EndpointId,
    limit: Annotated[int, typer.Option(min=1, max=100, help="At most this many, newest first.")] = 20,
    form: Listed = ListFormat.TABLE,
) -> None:
    """List what was sent to it in the last 30 days and what it answered."""
    from tunesmith.cli.webhook_client import WebhookClient

    with WebhookClient() as client:
        found = client.deliveries(endpoint_id, limit=limit)
    if form is ListFormat.JSON:
        output.as_json(found)
        return
    output.table(("ID", "STATUS", "EVENT", "ABOUT", "TRIES", "LAST ANSWER", "NEXT TRY"), [_row(item) for item in found])


@app.command()
def redeliver(
    endpoint_id: EndpointId,
    delivery_id: Annotated[str, typer.Argument(metavar="DELIVERY", help="The id that `deliveries` shows.")],
) -> None:
    """Send an event again, under its old id."""
    from tunesmith.cli.webhook_client import WebhookClient

    with WebhookClient() as client:
        found = client.redeliver(endpoint_id, delivery_id)
    output.data(f"{found.id}  {found.status}")


def _set(endpoint_id: str, *, enabled: bool) -> None:
    from tunesmith.cli.webhook_client import WebhookClient

    with WebhookClient() as client:
        found = client.set_enabled(endpoint_id, enabled=enabled)
    output.data(f"{found.id}  {_state(found)}")


def _print(found: "EndpointObject", *, form: ListFormat) -> None:
    if form is ListFormat.JSON:
        output.as_json(found)
        return
    output.data(f"{found.id}  {_state(found)}")
    output.data(f"name        {found.name}")
    output.data(f"url         {found.url}")
    output.data(f"events      {', '.join(found.event_types)}")
    output.data(f"secret      {found.signing_secret_hint}")
    if found.tunesmith.disabled_reason:
        output.data(f"disabled    {found.tunesmith.disabled_reason}")
    if found.tunesmith.failing_since:
        output.data(f"failing     since {output.moment(found.tunesmith.failing_since)}")


def _print_secret(made: "EndpointWithSecret", *, form: ListFormat) -> None:
    _print(made, form=form)
    if form is ListFormat.TABLE:
        output.data(f"secret      {made.signing_secret}")
        output.note("keep the secret now: it is not shown again")


def _state(endpoint: "EndpointObject") -> str:
    if not endpoint.tunesmith.enabled:
        return "disabled"
    return "failing" if endpoint.tunesmith.failing_since else "enabled"


def _row(delivery: "DeliveryObject") -> tuple[object, ...]:
    last = delivery.tries[-1] if delivery.tries else {}
    answered = last.get("error") or last.get("status_code")
    return (
        delivery.id,
        delivery.status,
        delivery.event.type,
        delivery.event.data.id,
        len(delivery.tries),
        answered,
        output.moment(delivery.next_try_at) if delivery.next_try_at else None,
    )
