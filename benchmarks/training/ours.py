"""Our engine on the same rows, in a process of its own. Prints one JSON line like the peers.

python -m benchmarks.training.ours WORKLOAD_DIR [--method lora|full] [--rows-per-step 8] [--tokens-per-micro-step N]
                                                [--processes 1]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from tunesmith.tuning.estimates.utilization import StepWork, training_flops
from tunesmith.tuning.job import DatasetFacts, JobSpec, LoraOptions
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Plan
from tunesmith.tuning.planner.choose import choose
from tunesmith.tuning.words import Method
from tunesmith.worker.machine.probe import probe
from tunesmith.worker.run_directory import RunDirectory, TrainRequest


def plan_for(workload: Path, *, method: str, rows_per_step: int) -> tuple[JobSpec, DatasetFacts, Plan]:
    """The planner's own plan for this machine, with batch, rate and epochs fixed to the peers'."""
    lengths = [json.loads(line) for line in (workload / "tokens.jsonl").open()]
    tokens = [len(row["input_ids"]) for row in lengths]
    dataset = DatasetFacts(
        rows=len(tokens),
        tokens=sum(tokens),
        longest_row_tokens=max(tokens),
        supervised_tokens=sum(sum(row["completion_mask"]) for row in lengths),
        tokens_are_exact=True,
    )
    spec = JobSpec(
        model="workload",
        method=Method(method),
        lora=LoraOptions(rank=16, alpha=32),
        hyperparameters={"n_epochs": 1, "batch_size": rows_per_step},
        learning_rate=2e-4 if method == "lora" else 2e-5,
        seed=0,
    )
    shape = ModelShape.from_config(json.loads((workload / "model" / "config.json").read_text()))
    plan = choose(spec=spec, shape=shape, dataset=dataset, hardware=probe(disk=workload))
    assert isinstance(plan, Plan), plan
    steps = plan.total_steps
    quiet = {"evaluation_interval_steps": steps, "checkpoint_interval_steps": steps, "warmup_steps": 0}
    return spec, dataset, plan.model_copy(update=quiet)


def needed_flops(workload: Path, plan: Plan) -> float:
    """Operations of one epoch that the training needs: no padding, no recomputation, the head on supervised tokens."""
    rows = [json.loads(line) for line in (workload / "tokens.jsonl").open()]
    lengths = [len(row["input_ids"]) for row in rows]
    work = StepWork(
        tokens=sum(lengths),
        supervised_tokens=sum(sum(row["completion_mask"]) for row in rows),
        squared_lengths=sum(length * length for length in lengths),
    )
    shape = ModelShape.from_config(json.loads((workload / "model" / "config.json").read_text()))
    return training_flops(shape, work, adapter_parameters=plan.lora.trainable_parameters if plan.lora else None)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", type=Path)
    parser.add_argument("--method", choices=("lora", "full"), default="lora")
    parser.add_argument("--rows-per-step", type=int, default=8)
    parser.add_argument("--tokens-per-micro-step", type=int, help="instead of the planner's number")
    parser.add_argument("--processes", type=int, default=1, help="that share the cores of this machine")
    arguments = parser.parse_args()
    workload = arguments.workload.resolve()
    spec, dataset, plan = plan_for(workload, method=arguments.method, rows_per_step=arguments.rows_per_step)
    if arguments.tokens_per_micro_step:
        plan = plan.model_copy(update={"tokens_per_micro_step": arguments.tokens_per_micro_step})
    plan = plan.model_copy(update={"world_size": arguments.processes})
    run = RunDirectory(Path(tempfile.mkdtemp(prefix="tunesmith-bench-")))
    run.create(
        TrainRequest(
            job_id="bench",
            attempt_id="bench",
            spec=spec,
            plan=plan,
            dataset=dataset,
            model_dir=str(workload / "model"),
            training_file=str(workload / "rows.jsonl"),
        )
    )
    started = time.perf_counter()
    with run.log.open("wb") as log:
        subprocess.run(_command(run, arguments.processes), stdout=log, stderr=log, env=_environment(plan), check=True)
    points = [json.loads(line) for line in run.metrics.open()]
    points = [point for point in points if point.get("train_loss") is not None]
    result = run.read_result()
    assert result is not None
    trained = [0] + [int(point["trained_tokens"]) for point in points]
    tokens = [later - earlier for earlier, later in pairwise(trained)]
    supervised = [later - earlier for earlier, later in pairwise([0] + [int(p["supervised_tokens"]) for p in points])]
    print(
        json.dumps(
            {
                "side": "tunesmith",
                "step_tokens": tokens,
                "step_supervised": supervised,
                "step_seconds": [
                    round(count / point["tokens_per_second"], 3) for count, point in zip(tokens, points, strict=True)
                ],
                "losses": [point["train_loss"] for point in points],
                "gradient_norms": [point["grad_norm"] for point in points],
                "flops_per_token": needed_flops(workload, plan) / sum(tokens),
                "trainable_parameters": plan.lora.trainable_parameters if plan.lora else 0,
                "peak_rss_mib": (result.peak_memory_bytes or 0) // 2**20,
                "wall_seconds": round(time.perf_counter() - started, 1),
                "plan": {"precision": plan.precision, "tokens_per_micro_step": plan.tokens_per_micro_step},
            }
        )
    )
    shutil.rmtree(run.root)


def _command(run: RunDirectory, processes: int) -> list[str]:
    if processes == 1:
        return [sys.executable, "-m", "tunesmith.worker.train", str(run.root)]
    return [sys.executable, "-m", "tunesmith.worker.train.ranks", str(run.root), "--processes", str(processes)]


def _environment(plan: Plan) -> dict[str, str]:
    """Several processes share the cores out; one takes what it finds."""
    threads = max(1, len(os.sched_getaffinity(0)) // plan.world_size)
    return {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if plan.world_size > 1 else {})}


if __name__ == "__main__":
    main()
