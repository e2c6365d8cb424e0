"""Load on the control plane, with the CPU time that a request costs the API and PostgreSQL.

    make bench-control-plane   or   python -m benchmarks.control_plane [--jobs 1000] [--state queued] [--seconds 3]
                                    [--only poll] [--streams 2000] [--beside FOLDER] [--mlflow]

A service of its own on an embedded PostgreSQL is filled with jobs by SQL and then asked, by a process of its own on 16
connections, for some seconds a kind. Everything shares the cores of this machine. `--beside` measures another checkout
in turn with this one, kind by kind, so that both see the machine in the same mood. `--mlflow` asks MLflow's tracking
server for the like (it builds an environment of its own, once).
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.control_plane.load import KINDS, WHOLE
from benchmarks.control_plane.site import MODEL, Site, running_site
from benchmarks.machine import setting

ROOT = Path(__file__).parents[2]
CLIENTS, ATTEMPTS, POINTS = 16, 16, 500


def main() -> None:
    """Measure and print one table for each number of jobs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, action="append", help="stored when the load begins; 1000 and 20000")
    parser.add_argument("--state", choices=("queued", "cancelled"), default="queued")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--only", choices=(*KINDS, *WHOLE), action="append")
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=1, help="of the API")
    parser.add_argument("--beside", type=Path, help="another checkout")
    parser.add_argument("--mlflow", action="store_true")
    arguments = parser.parse_args()
    print(setting("fastapi", "uvicorn", "sqlalchemy", "psycopg"), f"load {os.getloadavg()[0]:.1f}\n", flush=True)
    sources = {"before": arguments.beside.resolve()} if arguments.beside else {}
    for count in arguments.jobs or (1000, 20_000):
        measure(sources | {"now": ROOT}, count, arguments=arguments)
    if arguments.mlflow:
        from benchmarks.control_plane import mlflow

        mlflow.measure(seconds=arguments.seconds)


def measure(sources: dict[str, Path], count: int, *, arguments: argparse.Namespace) -> None:
    """Every kind of load on every checkout, kind by kind."""
    print(f"{count:,} jobs {arguments.state}\n\n{HEAD}", flush=True)
    with contextlib.ExitStack() as stack:
        sites = {
            name: stack.enter_context(running_site(source, processes=arguments.processes))
            for name, source in sources.items()
        }
        settings = {name: _settings(site, count, arguments=arguments) for name, site in sites.items()}
        for kind in arguments.only or (*KINDS, *WHOLE):
            for name, site in sites.items():
                print(row(kind, name, _measured(kind, site, settings[name])), flush=True)
    print(flush=True)


HEAD = (
    "| load | version | per second | p50 ms | p99 ms | API CPU ms | PostgreSQL CPU ms | answers |\n" + "|---" * 8 + "|"
)


def row(kind: str, name: str, found: dict[str, Any]) -> str:
    """One line of the table."""
    if kind == "streams":
        rate = f"{found['streams']} open in {found['opening_seconds']:.1f} s"
        answers = f"{found['events']} events, {found['missed_or_doubled']} streams missed or doubled one"
    else:
        rate = f"{found['per_second']:.0f}" + (f", {found['points']:,.0f} points" if "points" in found else "")
        answers = ", ".join(f"{number} x {status}" for status, number in found["statuses"].items())
    if kind == "overload":
        soon = "not within a minute" if (late := found["recovery_seconds"]) is None else f"after {late:.1f} s"
        answers += f", {found['silent']} without Retry-After; served well again {soon}"
    times = ("-" if found[name] is None else f"{found[name]:.1f}" for name in ("p50", "p99"))
    costs = (f"{found[name]:.2f}" for name in ("api_ms", "postgres_ms"))
    return f"| {kind} | {name} | {rate} | {' | '.join([*times, *costs, answers])} |"


def _settings(site: Site, count: int, *, arguments: argparse.Namespace) -> dict[str, Any]:
    attempts = [] if arguments.only == ["nothing"] else _attempts(site)
    return {
        "host": "127.0.0.1",
        "port": site.port,
        "key": site.keys["member"],
        "seconds": arguments.seconds,
        "clients": CLIENTS,
        "model": MODEL,
        "file": site.file,
        "claim": site.claim_request(),
        "points": POINTS,
        "streams": arguments.streams,
        "attempts": attempts,
        "jobs": site.fill(count, state=arguments.state),
    }


def _attempts(site: Site) -> list[dict[str, str]]:
    for _ in range(ATTEMPTS):
        site.ask("POST", "/v1/fine_tuning/jobs", json={"model": MODEL, "training_file": site.file})
    return site.claim(ATTEMPTS)


def _measured(kind: str, site: Site, settings: dict[str, Any]) -> dict[str, Any]:
    if kind == "claim":
        settings = settings | {"key": site.keys["worker"], "clients": 2}
    command = [sys.executable, "-m", "benchmarks.control_plane.load", kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as load:
        assert load.stdin is not None
        assert load.stdout is not None
        load.stdin.write(json.dumps(settings))
        load.stdin.close()
        load.stdout.readline()  # it has warmed up
        before = site.spent()
        found: dict[str, Any] = json.loads(load.stdout.readline())
        spent = site.spent() - before
    per = max(1, found.get("events") or found.get("count") or 1)
    found |= {"api_ms": spent.api / per * 1000, "postgres_ms": spent.postgres / per * 1000}
    if kind == "metrics":
        found["points"] = found["per_second"] * settings["points"]
    return found


if __name__ == "__main__":
    main()
