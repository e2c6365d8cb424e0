"""The load generator, a process of its own: asks one kind of question for some seconds and prints what it saw.

python -m benchmarks.control_plane.load KIND < settings.json
"""

import asyncio
import itertools
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from benchmarks.control_plane.client import Connection, Reply
from benchmarks.control_plane.overload import overload
from benchmarks.control_plane.streams import watch_streams

Ask = Callable[[Connection], Awaitable[Reply]]
JOBS = "/v1/fine_tuning/jobs"


def main() -> None:
    """Run one kind of load."""
    settings = json.load(sys.stdin)
    kind = sys.argv[1]
    found = WHOLE[kind](settings) if kind in WHOLE else press(ASKS[kind](settings), settings)
    print(json.dumps(asyncio.run(found)))


async def press(ask: Ask, settings: dict[str, Any]) -> dict[str, Any]:
    """Ask on every connection as fast as answers come. The first answer on each is not counted."""
    milliseconds: list[float] = []
    statuses: Counter[int] = Counter()
    everybody = asyncio.Barrier(settings["clients"])
    begins: list[float] = []

    async def one_client() -> None:
        async with Connection(settings["host"], settings["port"], key=settings["key"]) as connection:
            await ask(connection)
            if await everybody.wait() == 0:
                print(flush=True)  # from here on it counts, also for whoever looks at the CPU time of the service
            begins.append(time.perf_counter())
            while (started := time.perf_counter()) < begins[0] + settings["seconds"]:
                reply = await ask(connection)
                milliseconds.append((time.perf_counter() - started) * 1000)
                statuses[reply.status] += 1

    await asyncio.gather(*(one_client() for _ in range(settings["clients"])))
    return {
        "count": len(milliseconds),
        "per_second": len(milliseconds) / (time.perf_counter() - begins[0]),
        "p50": statistics.median(milliseconds),
        "p99": sorted(milliseconds)[int(len(milliseconds) * 0.99)],
        "statuses": {str(status): number for status, number in sorted(statuses.items())},
    }


def submits(settings: dict[str, Any]) -> Ask:
    """New jobs, each under a key of its own."""
    body = json.dumps({"model": settings["model"], "training_file": settings["file"], "metadata": {"team": "load"}})
    numbers = itertools.count(time.time_ns())
    return lambda connection: connection.ask("POST", JOBS, body=body.encode(), idempotency_key=f"bench-{next(numbers)}")


def retrieves(settings: dict[str, Any]) -> Ask:
    """One job after another."""
    ids = itertools.cycle(settings["jobs"])
    return lambda connection: connection.ask("GET", f"{JOBS}/{next(ids)}")


def polls(settings: dict[str, Any]) -> Ask:
    """The same with the `etag` of the last answer, as clients that follow jobs. First answers are not counted."""
    unknown = list(settings["jobs"])
    ids = itertools.cycle(settings["jobs"])
    etags: dict[str, str] = {}

    async def poll(connection: Connection) -> Reply:
        while unknown:
            await ask(connection, unknown.pop())
        return await ask(connection, next(ids))

    async def ask(connection: Connection, job_id: str) -> Reply:
        known = {"if_none_match": etags[job_id]} if job_id in etags else {}
        reply = await connection.ask("GET", f"{JOBS}/{job_id}", **known)
        etags[job_id] = reply.headers[b"etag"].decode()
        return reply

    return poll


def metrics(settings: dict[str, Any]) -> Ask:
    """Chunks of metric points, each attempt's from one connection at a time, as its worker would."""
    free = list(settings["attempts"])
    offsets: Counter[str] = Counter()

    async def ship(connection: Connection) -> Reply:
        attempt = free.pop()
        start = offsets[attempt["id"]]
        offsets[attempt["id"]] = end = start + settings["points"]
        points = [{"step": step, "train_loss": 1.5, "learning_rate": 1e-4, "tokens": 512} for step in range(start, end)]
        body = json.dumps({"start_offset": start, "end_offset": end, "points": points}).encode()
        connection.key = attempt["token"]
        reply = await connection.ask("POST", f"/internal/attempts/{attempt['id']}/metrics", body=body)
        free.append(attempt)
        return reply

    return ship


def claims(settings: dict[str, Any]) -> Ask:
    """A worker that takes one job after another."""
    return lambda connection: connection.ask("POST", "/internal/claims", body=settings["claim"].encode())


def plain(settings: dict[str, Any]) -> Ask:
    """The same request again and again."""
    body = json.dumps(settings["body"]).encode() if settings["body"] else b""
    return lambda connection: connection.ask(settings["method"], settings["path"], body=body)


def _get(path: str) -> Callable[[dict[str, Any]], Ask]:
    return lambda _settings: lambda connection: connection.ask("GET", path)


KINDS: dict[str, Callable[[dict[str, Any]], Ask]] = {
    "nothing": _get("/healthz"),
    "submit": submits,
    "retrieve": retrieves,
    "poll": polls,
    "list": _get(f"{JOBS}?limit=20"),
    "list by metadata": _get(f"{JOBS}?metadata%5Bshard%5D=7"),
    "claim": claims,
    "metrics": metrics,
}
ASKS = KINDS | {"plain": plain}
WHOLE: dict[str, Callable[[dict[str, Any]], Coroutine[Any, Any, dict[str, Any]]]] = {
    "overload": overload,
    "streams": watch_streams,
}


if __name__ == "__main__":
    main()
