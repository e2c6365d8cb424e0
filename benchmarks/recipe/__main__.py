"""How good the recipe's learning rate and rank are: "auto" against a sweep around it, by held-out loss.

    make bench-recipe      or   python -m benchmarks.recipe --model FOLDER [--tasks docstrings] [--seeds 0,1]

For SmolLM2-135M on two cores about 40 minutes a seed: two tasks of 7 runs. Without --model the demo's model is fetched.
Every
finished run is one line of results.jsonl; started again, the benchmark goes on with those that are missing.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality.packages import NoPackageIndex
from benchmarks.recipe import tasks
from benchmarks.recipe.sweep import Point, Record, points, render
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Plan, Refusal
from tunesmith.tuning.planner.choose import choose
from tunesmith.worker.machine.probe import probe
from tunesmith.worker.run_directory import RunDirectory, TrainRequest, TrainResult, append_line

ROOT = Path(__file__).parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model folder; without it the demo's model")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "bench-recipe")
    parser.add_argument("--tasks", default=",".join(tasks.TASKS), help=f"any of {','.join(tasks.TASKS)}")
    parser.add_argument("--multipliers", default="0.25,0.5,2,4", help="of the rate that the rules choose")
    parser.add_argument("--ranks", default="4,64", help="beside the rank that the rules choose")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--training-rows", type=int, default=160)
    parser.add_argument("--held-out-rows", type=int, default=120)
    arguments = parser.parse_args()
    sizes = {"training_rows": arguments.training_rows, "held_out_rows": arguments.held_out_rows}
    sweep = points(_numbers(arguments.multipliers, float), _numbers(arguments.ranks, int))
    try:
        for name in arguments.tasks.split(","):
            tasks.write(arguments.folder, name, **sizes)
    except NoPackageIndex as error:
        print(error, file=sys.stderr)
        return 2
    bench = Bench(arguments.folder.resolve(), (arguments.model or _demo_model()).resolve(), sizes)
    for name in arguments.tasks.split(","):
        for seed in _numbers(arguments.seeds, int):
            bench.measure(name, sweep, seed=seed)
    print(render(bench.finished()))
    return 0


@dataclass(frozen=True)
class Bench:
    """Runs of one model on rows of these sizes, and where they are kept."""

    folder: Path
    model: Path
    sizes: dict[str, int]

    def finished(self) -> list[Record]:
        """The runs so far."""
        file = self.folder / "results.jsonl"
        records: list[Record] = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        wanted: dict[str, Any] = {"model": str(self.model), **self.sizes}
        return [record for record in records if wanted.items() <= record.items()]

    def measure(self, task: str, sweep: list[Point], *, seed: int) -> None:
        """The runs that are missing."""
        done = {(record["task"], record["point"], record["seed"]) for record in self.finished()}
        facts = tasks.facts(*tasks.files_of(self.folder, task), model=self.model)
        for point in (point for point in sweep if (task, point.name, seed) not in done):
            began = time.monotonic()
            result = self._run(task, point, facts, seed=seed)
            names = {"task": task, "point": point.name, "seed": seed, "model": str(self.model)}
            append_line(self.folder / "results.jsonl", {**names, **self.sizes, **result})
            told = f"held-out loss {result['held_out_loss']:.4f} ({time.monotonic() - began:.0f} s)"
            print(f"{task}, {point.name}, seed {seed}: {told}", flush=True)

    def _run(self, task: str, point: Point, facts: DatasetFacts, *, seed: int) -> Record:
        """Train one recipe as a job would be, in a process of its own; its weights are thrown away.

        Raises:
            SystemExit: the planner refuses, or training failed.
        """
        spec = point.spec(seed=seed)
        plan = _plan(spec, model=self.model, facts=facts, folder=self.folder)
        training, held_out = tasks.files_of(self.folder, task)
        directory = RunDirectory(self.folder / "runs" / f"{task}-{point.name.replace(' ', '-')}-{seed}")
        shutil.rmtree(directory.root, ignore_errors=True)
        directory.create(
            TrainRequest(
                job_id=directory.root.name,
                attempt_id="1",
                spec=spec,
                plan=plan,
                dataset=facts,
                model_dir=str(self.model),
                training_file=str(training),
                validation_file=str(held_out),
            )
        )
        result = _trained(directory)
        return {
            "held_out_loss": result.final_valid_loss,
            "loss_before": result.first_valid_loss,
            "learning_rate": plan.learning_rate,
            "rank": plan.lora.rank if plan.lora else None,
            "rows_per_step": plan.rows_per_step,
            "steps": result.steps,
            "training_seconds": result.training_seconds,
        }


def _trained(directory: RunDirectory) -> TrainResult:
    command = [sys.executable, "-m", "tunesmith.worker.train", str(directory.root)]
    with directory.log.open("wb") as log:
        subprocess.run(command, stdout=log, stderr=log, check=False, cwd=ROOT)
    result = directory.read_result()
    if result is None or result.failure or result.final_valid_loss is None:
        why = result.failure.message if result and result.failure else "it was killed"
        raise SystemExit(f"{directory.root.name} failed: {why} (log: {directory.log})")
    shutil.rmtree(directory.output)
    shutil.rmtree(directory.checkpoints)
    return result


def _plan(spec: JobSpec, *, model: Path, facts: DatasetFacts, folder: Path) -> Plan:
    shape = ModelShape.from_config(json.loads((model / "config.json").read_text()))
    plan = choose(spec=spec, shape=shape, dataset=facts, hardware=probe(disk=folder))
    if isinstance(plan, Refusal):
        raise SystemExit(plan.text)
    return plan.model_copy(update={"checkpoint_interval_steps": plan.total_steps})


def _demo_model() -> Path:
    from tunesmith.cli.models.sources import from_gguf
    from tunesmith.local.demo import model

    return from_gguf(model.fetch())


def _numbers(text: str, kind: type[Any]) -> list[Any]:
    return [kind(number) for number in text.split(",") if number]


if __name__ == "__main__":
    sys.exit(main())
