"""The verb `workers`: who is there to train, on what, and how busy."""

from typing import Any

import typer

from tunesmith.cli import output
from tunesmith.cli.verbs.options import Listed, ListFormat
from tunesmith.tuning.units import GIB


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


def _row(worker: dict[str, Any]) -> tuple[object, ...]:
    busy = f"{worker.get('busy_slots', 0)}/{worker.get('slots', 1)}"
    return (
        worker["id"],
        worker.get("worker_class"),
        _hardware_text(worker.get("hardware") or {}),
        busy,
        _job_text(worker),
    )


def _hardware_text(hardware: dict[str, Any]) -> str:
    if gpus := hardware.get("gpus"):
        return f"{len(gpus)}x {gpus[0]['name']} {gpus[0]['memory_total_bytes'] / GIB:.0f} GiB"
    cpu = hardware.get("cpu") or {}
    return f"{cpu.get('cores', '?')} cores, {cpu.get('memory_total_bytes', 0) / GIB:.0f} GiB, {cpu.get('model', 'CPU')}"


def _job_text(worker: dict[str, Any]) -> str:
    current = worker.get("job_id") or worker.get("current_job") or worker.get("jobs") or ""
    return ", ".join(map(str, current)) if isinstance(current, list) else str(current)
