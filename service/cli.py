"""`tunesmith-service`: serve, migrate, keeper, keys.

What a command needs is imported when it runs: making a key starts in a third of the API's time.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from tunesmith.service.routes import Routes
from tunesmith.tuning.errors import TunesmithError
from tunesmith.tuning.words import KeyRole

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from tunesmith.service.keys.lifecycle import NewKey
    from tunesmith.service.settings import Settings

T = TypeVar("T")

app = typer.Typer(help="The control plane of Tunesmith.", no_args_is_help=True, pretty_exceptions_enable=False)
keys = typer.Typer(help="API keys.", no_args_is_help=True)
app.add_typer(keys, name="keys")


def main() -> None:
    """Entry point. Known errors are one line for people, never a trace."""
    try:
        app()
    except TunesmithError as error:
        typer.echo(f"error: {error.message}", err=True)
        if error.hint:
            typer.echo(f"next: {error.hint}", err=True)
        sys.exit(1)
    except Exception as error:
        from sqlalchemy.exc import OperationalError

        if not isinstance(error, OperationalError):
            raise
        typer.echo(f"error: the database cannot be used: {str(error.orig).splitlines()[0]}", err=True)
        typer.echo("next: start it, or correct DATABASE_URL", err=True)
        sys.exit(1)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on")] = 8100,
    routes: Annotated[Routes, typer.Option(help="whom to answer: people, workers or all")] = Routes.ALL,
    *,
    share_port: Annotated[bool, typer.Option("--share-port", help="let several such processes share it")] = False,
) -> None:
    """Serve the API, or a part of it."""
    from tunesmith.service.serve import serve as run_server

    settings = _logged_settings()
    run_server(settings, host=host, port=port, routes=routes, shares_port=share_port)


@app.command(name="migrate")
def migrate_command() -> None:
    """Bring the database to the newest schema. Safe to run twice at once."""
    from tunesmith.service.database import migrate

    migrate.upgrade(_database_url())


@app.command()
def keeper() -> None:
    """Requeue jobs of lost workers, wake workers for waiting jobs, send webhooks. Any number of copies may run."""
    from tunesmith.service.keeper.serve import keep

    asyncio.run(keep(_logged_settings()))


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="who or what will use it")],
    role: Annotated[KeyRole, typer.Option(help="what it may do")] = KeyRole.MEMBER,
    project: Annotated[str, typer.Option(help="the project it belongs to")] = "default",
) -> None:
    """Print a new key. It is shown once: only its hash is stored."""
    typer.echo(_in_transaction(lambda session: _create(session, name=name, role=role, project=project)).key)


@keys.command("first")
def make_first_keys(
    admin_file: Annotated[Path, typer.Option(help="where the first admin's key is written")],
    worker_file: Annotated[Path, typer.Option(help="where the key of the workers here is written")],
) -> None:
    """Make an admin's and a worker's key, each in a file that its owner alone can read. Later starts find them."""
    from tunesmith.service.keys import first_keys

    for file, role in ((admin_file, KeyRole.ADMIN), (worker_file, KeyRole.WORKER)):
        made = _in_transaction(partial(first_keys.make, role=role, has_file=file.exists()))
        if made is not None:
            first_keys.write(file, made)
        typer.echo(f"{role} key {'is there already' if made is None else f'made: it lies in {file}'}", err=True)


@keys.command("list")
def list_keys() -> None:
    """List all keys without what opens doors."""
    from datetime import UTC, datetime

    from tunesmith.service.keys import lifecycle, store

    at = datetime.now(UTC)
    for key in _in_transaction(store.every):
        state = lifecycle.status_of(key, at=at)
        used = key.last_used_at.isoformat(timespec="seconds") if key.last_used_at else "never used"
        typer.echo(f"{key.id}  ts-...{key.hint}  {key.role:6}  {key.project:12}  {state:7}  {used}  {key.name}")


@keys.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(help="the id that `keys list` shows")]) -> None:
    """Refuse a key from now on."""
    from tunesmith.service.audit.actions import OPERATOR
    from tunesmith.service.keys import lifecycle

    _in_transaction(lambda session: lifecycle.revoke(session, key_id, actor=OPERATOR))


async def _create(session: "AsyncSession", *, name: str, role: KeyRole, project: str) -> "NewKey":
    from tunesmith.service.audit.actions import OPERATOR
    from tunesmith.service.keys import lifecycle

    return await lifecycle.create(session, name=name, role=role.value, project=project, actor=OPERATOR)


def _in_transaction(work: "Callable[[AsyncSession], Awaitable[T]]") -> T:
    from tunesmith.service.database.transactions import Database, create_engine

    async def run() -> T:
        database = Database(create_engine(_database_url(), pool_size=2, pool_wait_seconds=5))
        try:
            async with database.transaction() as session:
                return await work(session)
        finally:
            await database.close()

    return asyncio.run(run())


def _logged_settings() -> "Settings":
    """The settings, and the log as they want it."""
    from pydantic import ValidationError

    from tunesmith.service import logs
    from tunesmith.service.settings import Settings

    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            typer.echo(f"error: setting {'.'.join(map(str, problem['loc']))}: {problem['msg']}", err=True)
        raise typer.Exit(2) from None
    logs.configure(log_format=settings.log_format, level=settings.log_level)
    return settings


def _database_url() -> str:
    url = os.environ.get("DATABASE_URL")
    if not url:
        typer.echo("error: DATABASE_URL is not set, for example postgresql://host/database", err=True)
        raise typer.Exit(2)
    return url
