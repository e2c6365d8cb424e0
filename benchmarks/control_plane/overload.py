"""More clients at once than the service takes: what they are told, and how soon another is served well afterwards."""

import asyncio
import json
import time
from collections import Counter
from typing import Any

from benchmarks.control_plane.client import Connection, Reply

CLIENTS = 400
WELL_SECONDS = 0.1  # an answer that comes so soon is a good one
_IN_A_ROW = 10
_PATIENCE_SECONDS = 60.0


async def overload(settings: dict[str, Any]) -> dict[str, Any]:
    """Every client submits as fast as it is answered; then one polls until ten answers in a row are good."""
    statuses: Counter[int] = Counter()
    silent = 0  # refusals that do not say when to come back
    milliseconds: list[float] = []
    print(flush=True)
    deadline = time.perf_counter() + settings["seconds"]

    async def one_client() -> None:
        nonlocal silent
        async with Connection(settings["host"], settings["port"], key=settings["key"]) as connection:
            while (started := time.perf_counter()) < deadline:
                reply = await _submit(connection, settings)
                milliseconds.append((time.perf_counter() - started) * 1000)
                statuses[reply.status] += 1
                silent += reply.status in (429, 503) and b"retry-after" not in reply.headers

    await asyncio.gather(*(one_client() for _ in range(CLIENTS)))
    milliseconds.sort()
    return {
        "count": len(milliseconds),
        "per_second": statuses[200] / settings["seconds"],
        "p50": milliseconds[len(milliseconds) // 2],
        "p99": milliseconds[int(len(milliseconds) * 0.99)],
        "statuses": {str(status): number for status, number in sorted(statuses.items())},
        "silent": silent,
        "recovery_seconds": await _recovery_seconds(settings),
    }


async def _submit(connection: Connection, settings: dict[str, Any]) -> Reply:
    body = json.dumps({"model": settings["model"], "training_file": settings["file"]}).encode()
    return await connection.ask("POST", "/v1/fine_tuning/jobs", body=body)


async def _recovery_seconds(settings: dict[str, Any]) -> float | None:
    """From the end of the load to the first of ten good answers; None if that takes longer than a minute."""
    ended = time.perf_counter()
    began, good = ended, 0
    async with Connection(settings["host"], settings["port"], key=settings["key"]) as connection:
        while good < _IN_A_ROW and began < ended + _PATIENCE_SECONDS:
            started = time.perf_counter()
            reply = await connection.ask("GET", f"/v1/fine_tuning/jobs/{settings['jobs'][0]}")
            is_good = reply.status == 200 and time.perf_counter() - started < WELL_SECONDS
            good = good + 1 if is_good else 0
            began = began if is_good else time.perf_counter()
    return began - ended if good == _IN_A_ROW else None
