"""The verb `up`."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.connection import data_dir_option, default_data_dir, forget_connection
from tunesmith.cli.output import bold, dim, duration, note
from tunesmith.local.embedded.locks import DirectoryLock, Holder
from tunesmith.local.up.address import DEFAULT_PORT, free_ports, is_loopback
from tunesmith.local.up.layout import Layout
from tunesmith.local.up.signals import StopRequested, StopSignals
from tunesmith.local.up.stack import Stack, clean_up_after_an_earlier_run
from tunesmith.local.up.supervisor import Supervisor
from tunesmith.tuning.errors import TunesmithError

_FAILED = 1
_ALONE = {
    (True, True): ", models answer while nobody trains",
    (True, False): "",
    (False, False): ", no worker here",
}

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where everything is kept. [default: ~/.local/share/tunesmith]")
]


def up(
    data_dir: DataDir = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the API; 0 takes any free one.")] = DEFAULT_PORT,
    *,
    host: Annotated[
        str, typer.Option(help="Address of the API; the default is reachable from here only.")
    ] = "127.0.0.1",
    worker_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port for workers. [default: the one behind --port, or any free one]"),
    ] = None,
    api_processes: Annotated[
        int,
        typer.Option(
            min=1, max=64, envvar="TUNESMITH_API_PROCESSES", help="Processes that share the API's port; 130 MiB each."
        ),
    ] = 1,
    worker: Annotated[bool, typer.Option("--worker/--no-worker", help="Also run a worker on this machine.")] = True,
) -> None:
    """Run the whole service on this machine until Ctrl-C: database, queue, API, keeper and one worker."""
    layout = Layout((data_dir or default_data_dir()).expanduser().resolve())
    try:
        address = _Address(host=host, port=port, worker_port=worker_port, api_processes=api_processes)
        _run(layout, address, worker=worker)
    except StopRequested as stop:
        note("stopped before it was ready; nothing is lost")
        raise typer.Exit(stop.exit_code) from None
    except TunesmithError as error:
        note(f"error  {error.message}")
        if error.hint:
            note(f"next   {error.hint}")
        raise typer.Exit(_FAILED) from None


@dataclass(frozen=True, kw_only=True)
class _Address:
    host: str
    port: int
    worker_port: int | None
    api_processes: int


def _run(layout: Layout, address: _Address, *, worker: bool) -> None:
    layout.claim()
    lock = DirectoryLock(layout.root)
    lock.acquire()
    try:
        ports = free_ports(address.host, public=address.port, workers=address.worker_port)
        forget_connection(layout.root)
        layout.create()
        with StopSignals() as signals:
            supervisor = Supervisor(signals=signals, tell=lambda line: note(f"  !   {line}"))
            try:
                stack = Stack(
                    layout,
                    supervisor=supervisor,
                    host=address.host,
                    ports=ports,
                    api_processes=address.api_processes,
                )
                _start(layout, stack, lock=lock, host=address.host, worker=worker)
                supervisor.run()
                note("stopping: worker, keeper, API, Valkey, PostgreSQL (Ctrl-C again to hurry)")
            finally:
                forget_connection(layout.root)
                supervisor.stop_all()
                clean_up_after_an_earlier_run(layout.root)
        note("stopped; the same command starts it again with everything still there")
    finally:
        lock.release()


def _start(layout: Layout, stack: Stack, *, lock: DirectoryLock, host: str, worker: bool) -> None:
    begun = time.monotonic()
    steps = _Steps()
    note(f"{bold('tunesmith up')}  {dim(f'data in {layout.root}')}")
    if left_over := clean_up_after_an_earlier_run(layout.root):
        steps.done(f"ended {left_over} processes that an earlier run left behind")
    lock.announce(Holder(pid=os.getpid(), base_url=stack.url))
    stack.start_servers()
    steps.done(f"PostgreSQL {stack.postgres.binaries.version} and Valkey {stack.valkey.binary.version}")
    stack.migrate()
    steps.done("database schema is current")
    stack.start_api()
    stack.mint_keys()
    stack.wait_for_api()
    steps.done(f"API on {stack.url}")
    stack.start_keeper()
    if worker:
        stack.start_worker()
    serves = worker and stack.start_inference()
    steps.done(f"keeper{' and worker' if worker else ''} started{_ALONE[worker, serves]}")
    connection_file = stack.publish()
    lock.announce(Holder(pid=os.getpid(), base_url=stack.url, ready=True))
    note(f"ready in {duration(time.monotonic() - begun)}\n")
    _tell_how_to_go_on(layout, stack=stack, connection_file=connection_file, host=host)


def _tell_how_to_go_on(layout: Layout, *, stack: Stack, connection_file: Path, host: str) -> None:
    option = data_dir_option(layout.root)
    note(f"  API        {bold(f'{stack.url}/v1')}")
    note(f"  workers    {stack.shared_worker_url} {dim('(another machine joins by `tunesmith workers invite`)')}")
    note(f"  key        {connection_file} {dim('(admin; readable by you only)')}")
    note(f"  logs       {layout.logs}\n")
    note(f'  go on      eval "$(tunesmith env{option})"   {dim("# for this command and the openai client")}')
    note("             tunesmith submit DATA.jsonl --model NAME --follow")
    note("             tunesmith ls")
    note(f"  stop       Ctrl-C {dim('(jobs, files and models stay)')}\n")
    if not is_loopback(host):
        note(f"  !   {host} is reachable from other machines, and keys travel unencrypted: put TLS in front of it\n")
        note("  join       paste this on another machine to train there; it is good once, for an hour:")
        note(f"             {_new_join_line(stack)}\n")


def _new_join_line(stack: Stack) -> str:
    from tunesmith.cli.access.client import AdminClient
    from tunesmith.cli.access.join_line import join_line

    with AdminClient(find=stack.connection) as client:
        invitation = client.invite_worker({"expires_in_seconds": 3600})
    return join_line(invitation, url=stack.shared_worker_url)


class _Steps:
    """One line per finished step, with its time."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def done(self, what: str) -> None:
        now = time.monotonic()
        note(f"  ok  {what:<52} {dim(duration(now - self._since))}")
        self._since = now
