"""`tunesmith-service`: serve, migrate, keeper, keys."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service import logs
from tunesmith.service.announcer import announcer_for
from tunesmith.service.app import Routes
from tunesmith.service.audit.actions import OPERATOR
from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.database import migrate
from tunesmith.service.database.transactions import Database, create_engine
from tunesmith.service.keeper.chore import KeeperContext
from tunesmith.service.keeper.chores import every_chore
from tunesmith.service.keeper.loop import Keeper
from tunesmith.service.keeper.schedules import fetching_chores, schedule_chores
from tunesmith.service.keys import first_keys, lifecycle, store
from tunesmith.service.keys.lifecycle import NewKey
from tunesmith.service.serve import serve as run_server
from tunesmith.service.settings import Settings
from tunesmith.service.webhooks.courier import Courier
from tunesmith.service.webhooks.sending import Sender
from tunesmith.tuning.errors import TunesmithError
from tunesmith.tuning.words import KeyRole

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
    settings = _settings()
    logs.configure(log_format=settings.log_format, level=settings.log_level)
    run_server(settings, host=host, port=port, routes=routes, shares_port=share_port)


@app.command(name="migrate")
def migrate_command() -> None:
    """Bring the database to the newest schema. Safe to run twice at once."""
    migrate.upgrade(_database_url())


@app.command()
def keeper() -> None:
    """Requeue jobs of lost workers, wake workers for waiting jobs, send webhooks. Any number of copies may run."""
    settings = _settings()
    logs.configure(log_format=settings.log_format, level=settings.log_level)
    asyncio.run(_keep(settings))


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
    for file, role in ((admin_file, KeyRole.ADMIN), (worker_file, KeyRole.WORKER)):
        made = _in_transaction(partial(first_keys.make, role=role, has_file=file.exists()))
        if made is not None:
            first_keys.write(file, made)
        typer.echo(f"{role} key {'is there already' if made is None else f'made: it lies in {file}'}", err=True)


@keys.command("list")
def list_keys() -> None:
    """List all keys without what opens doors."""
    at = datetime.now(UTC)
    for key in _in_transaction(store.every):
        state = lifecycle.status_of(key, at=at)
        used = key.last_used_at.isoformat(timespec="seconds") if key.last_used_at else "never used"
        typer.echo(f"{key.id}  ts-...{key.hint}  {key.role:6}  {key.project:12}  {state:7}  {used}  {key.name}")


@keys.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(help="the id that `keys list` shows")]) -> None:
    """Refuse a key from now on."""

    _in_transaction(lambda session: lifecycle.revoke(session, key_id, actor=OPERATOR))


async def _create(session: AsyncSession, *, name: str, role: KeyRole, project: str) -> NewKey:
    return await lifecycle.create(session, name=name, role=role.value, project=project, actor=OPERATOR)


async def _keep(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    database = _database(settings.database_url, pool_size=6)
    for_webhooks = _database(settings.database_url, pool_size=2)  # of their own: no receiver holds up a lease
    try:
        blobs = BlobStore.from_url(settings.store, signed_downloads=settings.signed_downloads)
        context = KeeperContext(settings, database, announcer_for(settings.redis_url), blobs)
        courier = Courier(for_webhooks, Sender.of(settings), every_seconds=min(1.0, settings.keeper_seconds))
        kinds = (every_chore(settings), schedule_chores(settings), fetching_chores(settings))
        await asyncio.gather(*(Keeper(context, chores).run(stop) for chores in kinds), courier.run(stop))
    finally:
        await for_webhooks.close()
        await database.close()


def _in_transaction(work: Callable[[AsyncSession], Awaitable[T]]) -> T:
    async def run() -> T:
        database = _database(_database_url(), pool_size=1)
        try:
            async with database.transaction() as session:
                return await work(session)
        finally:
            await database.close()

    return asyncio.run(run())


def _database(url: str, *, pool_size: int) -> Database:
    return Database(create_engine(url, pool_size=pool_size, pool_wait_seconds=5))


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            typer.echo(f"error: setting {'.'.join(map(str, problem['loc']))}: {problem['msg']}", err=True)
        raise typer.Exit(2) from None


def _database_url() -> str:
    url = os.environ.get("DATABASE_URL")
    if not url:
        typer.echo("error: DATABASE_URL is not set, for example postgresql://host/database", err=True)
        raise typer.Exit(2)
    return url
