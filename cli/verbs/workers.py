"""The verb `workers`: who is there to train, on what, and how busy."""

from typing import TYPE_CHECKING, Any

import typer

from tunesmith.cli import output
from tunesmith.cli.verbs.options import Listed, ListFormat
from tunesmith.tuning.values.units import GIB

if TYPE_CHECKING:
    from tunesmith.tuning.api.workers import WorkerObject


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command(rich_help_panel="The service")(workers)


def workers(form: Listed = ListFormat.TABLE) -> None:
    """List live workers with their hardware and what they are doing."""
    from tunesmith.cli.client import Client

    with Client() as client:
        found = client.workers()
    if form is ListFormat.JSON:
        output.as_json(found)
        return
    output.table(("ID", "CLASS", "HARDWARE", "BUSY", "JOB"), [_row(worker) for worker in found])
    if not found:
        output.note("no worker is alive, so jobs wait; start one with: tunesmith-worker run")


def _row(worker: "WorkerObject") -> tuple[object, ...]:
    busy = f"{worker.busy_slots}/{worker.slots}"
    return (worker.id, worker.worker_class, _hardware_text(worker.hardware), busy, ", ".join(worker.jobs))


def _hardware_text(hardware: dict[str, Any]) -> str:
    if gpus := hardware.get("gpus"):
        return f"{len(gpus)}x {gpus[0]['name']} {gpus[0]['memory_total_bytes'] / GIB:.0f} GiB"
    cpu = hardware.get("cpu") or {}
    return f"{cpu.get('cores', '?')} cores, {cpu.get('memory_total_bytes', 0) / GIB:.0f} GiB, {cpu.get('model', 'CPU')}"
