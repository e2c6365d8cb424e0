"""Time a user waits: from submit to the first optimizer step, and a job's wall time over its training time.

    make bench-latency   or   python -m benchmarks.latency [--jobs 3] [--epochs 1] [--start plain|warm] [--nightly]

Runs small LoRA jobs one after another through a whole installation (PostgreSQL, Valkey, API, keeper, worker), on a
model of the SmolLM2-135M shape with random weights, each with one other row than the one before: first with trainers
that import everything anew, then with trainers forked from a warm process. `--nightly` is twenty jobs of about a
minute, warm; on a machine with other work to do fewer `--rows` keep them at a minute. Nothing is downloaded.
"""

import argparse
import json
import platform
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.latency.site import running_site
from benchmarks.latency.timeline import STAGES, JobTimes
from benchmarks.machine import processor
from benchmarks.training import workload

STARTS = ("plain", "warm")
NIGHTS = 20
SPANS = (
    ("**claim to the first step's beginning**", "claimed", "training"),
    ("**claim to the first step's end**", "claimed", "first_step"),
    ("**submit to the first step's end**", "submitted", "first_step"),
    ("**job wall**", "submitted", "seen"),
)


def main() -> None:
    """Run the jobs of each kind of start and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, help="of each kind of start; 3 unless given")
    parser.add_argument("--rows", type=int, default=workload.ROWS, help="64 take half a minute an epoch on 2 cores")
    parser.add_argument("--epochs", type=int, help="1 unless given")
    parser.add_argument("--start", choices=STARTS, action="append", help="instead of both")
    parser.add_argument("--nightly", action="store_true", help=f"unless given, {NIGHTS} warm jobs of 2 epochs")
    parser.add_argument("--validation", action="store_true", help="hold out 8 rows, so that jobs evaluate")
    arguments = parser.parse_args()
    arguments.jobs = arguments.jobs or (NIGHTS if arguments.nightly else 3)
    arguments.epochs = arguments.epochs or (2 if arguments.nightly else 1)
    arguments.start = arguments.start or (["warm"] if arguments.nightly else STARTS)
    with tempfile.TemporaryDirectory(prefix="ts-latency-") as folder:
        data = Path(folder) / "workload"
        workload.build(data)
        kinds: dict[str, Sequence[JobTimes]] = {}
        for start in arguments.start:
            found = run_jobs(Path(folder) / start, data, start=start, arguments=arguments)
            kinds |= {f"{start}, first": found[:1], f"{start}, later": found[1:]}
            print(f"{start}: {len(found)} jobs, sum of walls over sum of training {_ratio(found)}", flush=True)
    print(f"\n{processor()}, Python {platform.python_version()}\n")
    print(table({name: jobs for name, jobs in kinds.items() if jobs}))


def run_jobs(folder: Path, data: Path, *, start: str, arguments: argparse.Namespace) -> list[JobTimes]:
    """So many jobs in a fresh installation; for the first the worker has only just come up."""
    rows = (data / "rows.jsonl").read_text(encoding="utf-8").splitlines()[: arguments.rows]
    found = []
    settings = {"TUNESMITH_WARM_TRAINER": str(start == "warm").lower()}
    with running_site(folder, model=data / "model", **settings) as site:
        validation_file = site.upload(rows[:8]) if arguments.validation else None
        for number in range(arguments.jobs):
            training_file = site.upload([*rows, json.dumps({"prompt": f"night {number}", "completion": " falls"})])
            found.append(site.run_job(training_file, epochs=arguments.epochs, validation_file=validation_file))
            print(one_line(number, found[-1]), flush=True)
        if (idle := site.warm_process_bytes()) is not None:
            print(f"the idle warm process: {idle / 2**20:.0f} MiB of its own", flush=True)
    return found


def one_line(number: int, times: JobTimes) -> str:
    """Progress for whoever watches."""
    return (
        f"job {number + 1} ({times.start} start): first step begins {times.seconds('claimed', 'training'):.2f} s after "
        f"the claim, wall {times.seconds('submitted', 'seen'):.1f} s, training {times.training_seconds:.1f} s"
    )


def table(kinds: dict[str, Sequence[JobTimes]]) -> str:
    """Medians of every stage as a markdown table, one column to a kind of job."""
    lines = [f"| seconds, median | {' | '.join(f'{name} ({len(jobs)})' for name, jobs in kinds.items())} |"]
    lines.append("|---" * (1 + len(kinds)) + "|")
    for name, begins, ends in [*((s.name, s.begins, s.ends) for s in STAGES), *SPANS]:
        medians = (statistics.median(job.seconds(begins, ends) for job in jobs) for jobs in kinds.values())
        lines.append(f"| {name} | {' | '.join(f'{median:.2f}' for median in medians)} |")
    lines.append(f"| **sum of walls over sum of training** | {' | '.join(_ratio(jobs) for jobs in kinds.values())} |")
    return "\n".join(lines)


def _ratio(jobs: Sequence[JobTimes]) -> str:
    wall = sum(job.seconds("submitted", "seen") for job in jobs)
    return f"{wall / sum(job.training_seconds for job in jobs):.3f}"


if __name__ == "__main__":
    main()
