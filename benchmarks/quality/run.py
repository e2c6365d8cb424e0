"""What each method is worth: accuracy before and after on one task, several configurations and seeds.

    make bench-quality      or   python -m benchmarks.quality.run [--seeds 0,1,2] [--under "nice -n 19"]

Every finished run is one line of results.jsonl in the folder; started again, the benchmark goes on with the runs that
are missing. Runs are ordered by seed, so that after each third all configurations can be compared.
"""

import argparse
import fcntl
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.machine import processor
from benchmarks.quality.baselines import accuracies
from benchmarks.quality.configurations import BASES, CONFIGURATIONS
from benchmarks.quality.packages import (
    SECTIONS,
    NoPackageIndex,
    Package,
    Split,
    answer_of,
    prompt_of,
    read_index,
    row_of,
    split,
)
from benchmarks.quality.report import render
from tunesmith.worker.run_directory import append_line

ROOT = Path(__file__).parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "bench-quality")
    parser.add_argument("--packages", type=Path, help="output of `apt-cache dumpavail` from another machine")
    parser.add_argument("--seeds", default="0,1,2")
    names = ",".join(configuration.name for configuration in CONFIGURATIONS)
    parser.add_argument("--configurations", default=names, help=f"any of {names}")
    parser.add_argument("--training-rows", type=int, default=450)
    parser.add_argument("--held-out-rows", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rows-per-step", type=int, default=16)
    parser.add_argument("--under", default="", help="a command that each run is started under, such as `nice -n 19`")
    parser.add_argument("--render", action="store_true", help="only print the table of the runs there are")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    try:
        task = prepare(folder, arguments)
    except NoPackageIndex as error:
        print(error, file=sys.stderr)
        return 2
    runs = [(name, 0) for name in BASES] + [
        (name, int(seed)) for seed in arguments.seeds.split(",") for name in arguments.configurations.split(",")
    ]
    try:
        if not arguments.render:
            with alone(folder) as lock:
                measure(folder, task, runs=runs, under=shlex.split(arguments.under), lock=lock)
    except KeyboardInterrupt:
        print("Stopped; the run at hand is lost, the others are kept. Start again to go on.", file=sys.stderr)
        return 130
    right = json.loads((folder / "held_out.json").read_text())["right"]
    print(render(task, finished(folder, task), right=right))
    return 0


def prepare(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The task's files, made once per folder: what is compared must be the same rows, also after `apt-get update`.

    Raises:
        NoPackageIndex: there are no packages to make rows of.
        SystemExit: the folder holds a task of other numbers.
    """
    asked = {name: getattr(arguments, name) for name in ("training_rows", "held_out_rows", "epochs", "rows_per_step")}
    if (folder / "task.json").exists():
        task: dict[str, Any] = json.loads((folder / "task.json").read_text())
        if not arguments.render and {name: task[name] for name in asked} != asked:
            raise SystemExit(f"{folder} holds runs of another task ({task}): give another --folder, or remove it.")
        return task
    rows = split(
        read_index(arguments.packages), training_rows=asked["training_rows"], held_out_rows=asked["held_out_rows"]
    )
    folder.mkdir(parents=True, exist_ok=True)
    _write_rows(folder, rows)
    task = {
        **asked,
        "sha256": _sha256(folder / "training.jsonl", folder / "held_out.json"),
        "sections": list(SECTIONS),
        "baselines": accuracies(rows),
        "model_dir": str(_model()),
        "machine": f"{processor()}, {os.cpu_count()} cores, {platform.machine()}",
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "peft", "bitsandbytes")},
    }
    task["dataset"] = _facts(folder, Path(task["model_dir"]))
    (folder / "task.json").write_text(json.dumps(task, indent=2))
    return task


@contextmanager
def alone(folder: Path) -> Iterator[int]:
    """Holds the folder's lock and yields its descriptor. Runs inherit it: one that outlives us still keeps others out.

    Raises:
        SystemExit: another process works in the folder.
    """
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"A benchmark is at work in {folder}: wait for it, or give another --folder.") from None
        yield file.fileno()


def measure(folder: Path, task: dict[str, Any], *, runs: list[tuple[str, int]], under: list[str], lock: int) -> None:
    """Every run that is not there yet, each in a process of its own; a failure ends the benchmark, with its reason."""
    done = {(record["configuration"], record["seed"]) for record in finished(folder, task)}
    missing = [run for run in runs if run not in done]
    began = time.monotonic()
    for number, (name, seed) in enumerate(missing):
        elapsed = time.monotonic() - began
        expected = f", about {elapsed / number * (len(missing) - number) / 60:.0f} min to go" if number else ""
        position = f"run {len(runs) - len(missing) + number + 1} of {len(runs)}"
        print(f"{position}: {name}, seed {seed} ({elapsed / 60:.0f} min so far{expected})", flush=True)
        record = _measure_one(folder, name, seed=seed, under=under, lock=lock)
        record["date"] = time.strftime("%Y-%m-%d", time.gmtime())
        append_line(folder / "results.jsonl", {**record, "task": task["sha256"]})
        print(f"    accuracy {record['accuracy']:.1%}, loss {record['loss']:.3f}", flush=True)


def finished(folder: Path, task: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs of this task so far; a line that an interruption cut is not a run."""
    if not (folder / "results.jsonl").exists():
        return []
    records = []
    for line in (folder / "results.jsonl").read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["task"] == task["sha256"]:
            records.append(record)
    return records


def _measure_one(folder: Path, name: str, *, seed: int, under: list[str], lock: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.quality.one", str(folder), name, str(seed)]
    ended = subprocess.run([*under, *command], cwd=ROOT, capture_output=True, text=True, check=False, pass_fds=(lock,))
    if ended.returncode:
        raise SystemExit(f"{name}, seed {seed}: {ended.stderr.strip()[-3000:]}\nStart again to go on from here.")
    record: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return record


def _write_rows(folder: Path, rows: Split) -> None:
    (folder / "training.jsonl").write_text("".join(json.dumps(row_of(package)) + "\n" for package in rows.training))
    (folder / "held_out.json").write_text(json.dumps(_held_out(rows.held_out)))


def _held_out(packages: tuple[Package, ...]) -> dict[str, list[Any]]:
    return {
        "prompts": [prompt_of(package) for package in packages],
        "answers": [answer_of(section) for section in SECTIONS],
        "right": [SECTIONS.index(package.section) for package in packages],
    }


def _model() -> Path:
    """The model of `make demo`, fetched and converted once for this user."""
    from tunesmith.cli.models.sources import from_gguf
    from tunesmith.local.demo import model

    return from_gguf(model.fetch())


def _facts(folder: Path, model: Path) -> dict[str, int]:
    """What the planner must know about the rows, counted by the product's own tokenisation."""
    from tunesmith.worker.train.data.rows import load_rows
    from tunesmith.worker.train.models.model import load_tokenizer

    rows = load_rows(
        folder / "training.jsonl", tokenizer=load_tokenizer(model), objective="supervised", max_sequence_length=4096
    )
    return {
        "rows": len(rows),
        "tokens": int(rows.lengths().sum()),
        "longest_row_tokens": int(rows.lengths().max()),
        "supervised_tokens": int(rows.supervised_counts().sum()),
    }


def _sha256(*files: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
