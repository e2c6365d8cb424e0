"""Many clients on event streams while events are written: whether each saw each event once, and how soon."""

import asyncio
import contextlib
import json
import statistics
import time
from typing import Any

from benchmarks.control_plane.client import Connection

ROUNDS = 5  # events of each job
DEADLINE_SECONDS = 60.0


async def watch_streams(settings: dict[str, Any]) -> dict[str, Any]:
    """Open the streams, write events to every job, and compare what arrived with what was written."""
    attempts = settings["attempts"]
    seen: list[list[int]] = [[] for _ in range(settings["streams"])]
    sent_at: dict[tuple[str, str], float] = {}
    delays: list[float] = []
    print(flush=True)
    opened_at = time.perf_counter()
    opened = asyncio.Semaphore(0)
    refused: list[int] = []

    async def one_client(number: int) -> None:
        job_id = attempts[number % len(attempts)]["job_id"]
        async with Connection(settings["host"], settings["port"], key=settings["key"]) as connection:
            await connection.send("GET", f"/v1/fine_tuning/jobs/{job_id}/events", accept="text/event-stream")
            status, headers = await connection.head()
            opened.release()
            if status != 200 or b"event-stream" not in headers[b"content-type"]:
                refused.append(status)
                return
            while line := await connection.line():
                if line.startswith(b"id: "):
                    seen[number].append(int(line.rpartition(b"-")[2]))
                elif line.startswith(b"data: ") and (told := json.loads(line[6:])).get("message", "").startswith(
                    "load"
                ):
                    delays.append(time.perf_counter() - sent_at[job_id, told["message"]])

    clients = [asyncio.create_task(one_client(number)) for number in range(settings["streams"])]
    for _ in clients:
        await asyncio.wait_for(opened.acquire(), DEADLINE_SECONDS)
    opening_seconds = time.perf_counter() - opened_at
    last_seqs = await _write(settings, sent_at)
    await _settle(seen, lambda number: last_seqs[attempts[number % len(attempts)]["job_id"]], refused=refused)
    for client in clients:
        client.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*clients, return_exceptions=True)
    wanted = [list(range(1, last_seqs[attempts[n % len(attempts)]["job_id"]] + 1)) for n in range(len(seen))]
    return {
        "streams": len(seen) - len(refused),
        "refused": len(refused),
        "opening_seconds": opening_seconds,
        "events": sum(map(len, seen)),
        "missed_or_doubled": sum(found != all_ for found, all_ in zip(seen, wanted, strict=True)),
        "p50": statistics.median(delays) * 1000 if delays else None,
        "p99": sorted(delays)[int(len(delays) * 0.99)] * 1000 if delays else None,
    }


async def _write(settings: dict[str, Any], sent_at: dict[tuple[str, str], float]) -> dict[str, int]:
    """Some events to each job, as its worker would; returns the number of each job's last event."""
    async with Connection(settings["host"], settings["port"], key="") as connection:
        for number in range(ROUNDS):
            for attempt in settings["attempts"]:
                message = f"load {number}"
                sent_at[attempt["job_id"], message] = time.perf_counter()
                connection.key = attempt["token"]
                body = json.dumps({"message": message, "level": "info"}).encode()
                reply = await connection.ask("POST", f"/internal/attempts/{attempt['id']}/events", body=body)
                assert reply.status == 204, reply
        connection.key = settings["key"]
        last = {}
        for attempt in settings["attempts"]:
            reply = await connection.ask("GET", f"/v1/fine_tuning/jobs/{attempt['job_id']}/events?limit=1")
            assert reply.status == 200, reply
            last[attempt["job_id"]] = int(reply.json()["data"][0]["id"].rpartition("-")[2])
    return last


async def _settle(seen: list[list[int]], last_seq: Any, *, refused: list[int]) -> None:
    deadline = time.perf_counter() + DEADLINE_SECONDS
    while time.perf_counter() < deadline and not refused:
        if all(found and found[-1] >= last_seq(number) for number, found in enumerate(seen)):
            return
        await asyncio.sleep(0.1)
