"""Verbs about workers: list them, invite one, see and withdraw invitations."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli import output
from tunesmith.cli.verbs.options import Listed, ListFormat, seconds_of
from tunesmith.tuning.values.units import GIB

if TYPE_CHECKING:
    from tunesmith.tuning.api.access.invitations import NewInvitation
    from tunesmith.tuning.api.workers import WorkerObject

app = typer.Typer(invoke_without_command=True, help="Who trains, on what, and how busy; and how others join.")


@app.callback()
def workers(context: typer.Context, *, form: Listed = ListFormat.TABLE) -> None:
    """List live workers with their hardware and what they are doing; or invite one."""
    if context.invoked_subcommand is not None:
        return
    from tunesmith.cli.client import Client

    with Client() as client:
        found = client.workers()
    if form is ListFormat.JSON:
        output.as_json(found)
        return
    output.table(
        ("ID", "CLASS", "HARDWARE", "BUSY", "STATE", "JOB"), [_row(worker, at=time.time()) for worker in found]
    )
    if not found:
        output.note("no worker is alive, so jobs wait; invite one with: tunesmith workers invite")


@app.command()
def invite(
    *,
    name: Annotated[str | None, typer.Option(help="What the worker is called. [default: its host's name]")] = None,
    expires: Annotated[
        float, typer.Option(parser=seconds_of, metavar="TIME", help="How long the line is good, such as 30m, 1h or 2d.")
    ] = "1h",  # type: ignore[assignment]  # typer parses it
    service_url: Annotated[
        str | None, typer.Option(help="Where the machine reaches the service's port for workers, if it does not know.")
    ] = None,
    cpu_only: Annotated[
        bool, typer.Option("--cpu", help="For a machine without a GPU: PyTorch's smaller build.")
    ] = False,
) -> None:
    """Print the line that makes another machine a worker. It is good once."""
    from tunesmith.cli.access.client import AdminClient
    from tunesmith.cli.access.join_line import join_line

    with AdminClient() as client:
        invitation = client.invite_worker({"expires_in_seconds": int(expires), **({"name": name} if name else {})})
    address = service_url or invitation.url or client.connection.worker_url
    if address is None:
        raise typer.BadParameter(
            "the service does not know its own address: give it, like --service-url http://HOST:8101"
        )
    _tell(invitation, address)
    output.data(join_line(invitation, url=address, cpu_only=cpu_only))


@app.command()
def invitations(*, form: Listed = ListFormat.TABLE) -> None:
    """List invitations and who joined by them."""
    from tunesmith.cli.access.client import AdminClient

    with AdminClient() as client:
        found = client.invitations()
    if form is ListFormat.JSON:
        output.as_json(found)
        return
    rows = [(one.id, one.name, one.status, output.moment(one.expires_at), one.key_id) for one in found]
    output.table(("ID", "NAME", "STATUS", "EXPIRES", "KEY"), rows)


@app.command()
def withdraw(invitation_id: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Let nobody join by an invitation any more; a worker that has joined keeps its key."""
    from tunesmith.cli.access.client import AdminClient

    with AdminClient() as client:
        found = client.withdraw_invitation(invitation_id)
    key = f"; its worker's key is {found.key_id}, `tunesmith keys revoke` ends that" if found.key_id else ""
    output.note(f"{found.id} is {found.status}{key}")


def _tell(invitation: "NewInvitation", url: str) -> None:
    from tunesmith.cli.access.join_line import is_this_machine_only

    until = output.moment(invitation.expires_at)
    output.note(f"paste this on the machine that shall train; it is good once, until {until}:")
    if is_this_machine_only(url):
        output.note(f"note: {url} is reachable from this machine only; start with `tunesmith up --host 0.0.0.0`")


def _row(worker: "WorkerObject", *, at: float) -> tuple[object, ...]:
    busy, jobs = f"{worker.busy_slots}/{worker.slots}", ", ".join(worker.jobs)
    return (worker.id, worker.worker_class, _hardware_text(worker.hardware), busy, state_text(worker, at=at), jobs)


def state_text(worker: "WorkerObject", *, at: float) -> str:
    """Whether it takes jobs, and if not why not; `at` is now, in Unix seconds."""
    if worker.quarantined_until is not None and worker.quarantined_until > at:
        return f"quarantined until {output.moment(worker.quarantined_until)}: {worker.quarantine_reason}"
    return "draining" if worker.draining else "ready"


def _hardware_text(hardware: dict[str, Any]) -> str:
    if gpus := hardware.get("gpus"):
        return f"{len(gpus)}x {gpus[0]['name']} {gpus[0]['memory_total_bytes'] / GIB:.0f} GiB"
    cpu = hardware.get("cpu") or {}
    return f"{cpu.get('cores', '?')} cores, {cpu.get('memory_total_bytes', 0) / GIB:.0f} GiB, {cpu.get('model', 'CPU')}"
