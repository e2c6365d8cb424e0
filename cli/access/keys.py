"""Verbs about keys: keys create, ls, rotate, expire, revoke."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli import output
from tunesmith.cli.verbs.options import Listed, ListFormat, seconds_of
from tunesmith.tuning.words import KeyRole

if TYPE_CHECKING:
    from tunesmith.tuning.api.access.keys import KeyObject, NewKeyObject

app = typer.Typer(no_args_is_help=True, help="Keys: who may do what. They take an admin's key.")

KeyId = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `keys ls` shows it.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who or what will use it.")],
    *,
    role: Annotated[KeyRole, typer.Option(help="What it may do.")] = KeyRole.MEMBER,
    project: Annotated[str, typer.Option(help="The project whose objects it sees.")] = "default",
    expires: Annotated[
        float | None, typer.Option(parser=seconds_of, metavar="TIME", help="How long it is good, such as 12h or 90d.")
    ] = None,
) -> None:
    """Print a new key. It is shown this once."""
    from tunesmith.cli.access.client import AdminClient

    body: dict[str, Any] = {"name": name, "role": role.value, "project": project}
    if expires is not None:
        body["expires_in_seconds"] = int(expires)
    with AdminClient() as client:
        _show_new(client.create_key(body))


@app.command()
def ls(
    *,
    project: Annotated[str | None, typer.Option(help="Only keys of this project.")] = None,
    form: Listed = ListFormat.TABLE,
) -> None:
    """List keys, newest first, without what opens doors."""
    from tunesmith.cli.access.client import AdminClient

    with AdminClient() as client:
        found = client.keys(project=project)
    if form is ListFormat.JSON:
        output.as_json(found)
        return
    columns = ("ID", "NAME", "ROLE", "PROJECT", "STATUS", "ENDS", "LAST USED", "HINT")
    output.table(columns, [_row(key) for key in found])


@app.command()
def rotate(
    key_id: KeyId,
    *,
    grace: Annotated[
        float, typer.Option(parser=seconds_of, metavar="TIME", help="How long the old key goes on.")
    ] = "1d",  # type: ignore[assignment]  # typer parses it
) -> None:
    """Print a new key in the place of an old one, which goes on for a while."""
    from tunesmith.cli.access.client import AdminClient

    with AdminClient() as client:
        _show_new(client.rotate_key(key_id, overlap_seconds=int(grace)))
    output.note(f"{key_id} goes on for {output.duration(grace)}")


@app.command()
def expire(
    key_id: KeyId,
    *,
    after: Annotated[
        float | None, typer.Option("--in", parser=seconds_of, metavar="TIME", help="After this time.")
    ] = None,
    never: Annotated[bool, typer.Option("--never", help="Take its end away.")] = False,
) -> None:
    """Say when a key ends."""
    from tunesmith.cli.access.client import AdminClient

    if (after is None) is not never:
        raise typer.BadParameter("give one of --in and --never.")
    with AdminClient() as client:
        key = client.set_key_expiry(key_id, expires_in_seconds=None if after is None else int(after))
    output.note(f"{key.id} ({key.name}) ends {output.moment(key.expires_at) if key.expires_at else 'never'}")


@app.command()
def revoke(key_id: KeyId) -> None:
    """End a key now: everywhere within five seconds."""
    from tunesmith.cli.access.client import AdminClient

    with AdminClient() as client:
        key = client.revoke_key(key_id)
    output.note(f"{key.id} ({key.name}) is revoked")


def _show_new(key: "NewKeyObject") -> None:
    ends = f", until {output.moment(key.expires_at)}" if key.expires_at else ""
    output.note(f"{key.id}: {key.role} of {key.project}{ends}; the key is shown this once")
    output.data(key.key)


def _row(key: "KeyObject") -> tuple[object, ...]:
    ends = None if key.expires_at is None else output.moment(key.expires_at)
    used = None if key.last_used_at is None else output.moment(key.last_used_at)
    return (key.id, key.name, key.role, key.project, key.status, ends, used, f"...{key.hint}")
