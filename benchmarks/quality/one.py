"""One run: train one configuration with one seed by the trainer, score the result, print a JSON line.

    python -m benchmarks.quality.one FOLDER CONFIGURATION SEED

FOLDER is the one that `benchmarks.quality.run` has prepared. The weights are deleted once they are scored; plan,
metrics and log stay in FOLDER/runs.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.quality.configurations import BASES, by_name, plan_of, spec_of, trainable_parameters
from tunesmith.tuning.job import DatasetFacts
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.words import Method
from tunesmith.worker.run_directory import RunDirectory, TrainRequest, TrainResult


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("configuration")
    parser.add_argument("seed", type=int)
    arguments = parser.parse_args()
    folder, name, seed = arguments.folder.resolve(), arguments.configuration, arguments.seed
    untrained = name in BASES
    record = scores(folder, output=None, four_bit=BASES[name]) if untrained else run_once(folder, name, seed=seed)
    print(json.dumps({"configuration": name, "seed": seed, **record}))


def run_once(folder: Path, name: str, *, seed: int) -> dict[str, Any]:
    """Train, score, clean up; the record of the run."""
    task = json.loads((folder / "task.json").read_text())
    lifeline, _ = held_open = os.pipe()  # the trainer ends when we do, however that happens
    directory, facts = _prepare(folder, task, name, seed=seed, lifeline=lifeline)
    started = time.perf_counter()
    result = _train(directory, lifeline=lifeline)
    for end in held_open:
        os.close(end)
    seconds = time.perf_counter() - started
    scored = scores(folder, output=directory.output, four_bit=by_name(name).method is Method.QLORA)
    shutil.rmtree(directory.output)
    shutil.rmtree(directory.checkpoints)
    return {
        **facts,
        "process_seconds": round(seconds, 1),
        "training_seconds": round(result.training_seconds or 0.0, 1),
        "trained_tokens": result.trained_tokens,
        "final_train_loss": result.final_train_loss,
        "peak_memory_bytes": result.peak_memory_bytes,
        **scored,
    }


def scores(folder: Path, *, output: Path | None, four_bit: bool) -> dict[str, Any]:
    """Accuracy and answers on the held-out rows, in a process of its own."""
    task = json.loads((folder / "task.json").read_text())
    command = [sys.executable, "-m", "benchmarks.quality.score", str(folder / "held_out.json"), task["model_dir"]]
    command += ["--output", str(output)] if output else []
    command += ["--four-bit"] if four_bit else []
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    if done.returncode:
        raise SystemExit(f"scoring failed:\n{done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _prepare(
    folder: Path, task: dict[str, Any], name: str, *, seed: int, lifeline: int
) -> tuple[RunDirectory, dict[str, Any]]:
    """A fresh run directory, whatever an interrupted run has left there, and what its plan says."""
    root = folder / "runs" / f"{name}-seed{seed}"
    shutil.rmtree(root, ignore_errors=True)
    shape = ModelShape.from_config(json.loads((Path(task["model_dir"]) / "config.json").read_text()))
    spec = spec_of(by_name(name), epochs=task["epochs"], rows_per_step=task["rows_per_step"], seed=seed)
    dataset = DatasetFacts(**task["dataset"], tokens_are_exact=True)
    plan = plan_of(spec, shape=shape, dataset=dataset, disk=folder)
    directory = RunDirectory(root)
    directory.create(
        TrainRequest(
            job_id=f"{name}-seed{seed}",
            attempt_id="1",
            spec=spec,
            plan=plan,
            dataset=dataset,
            model_dir=task["model_dir"],
            training_file=str(folder / "training.jsonl"),
            lifeline_fd=lifeline,
        )
    )
    return directory, {
        "learning_rate": plan.learning_rate,
        "alpha": plan.lora.alpha if plan.lora else None,
        "precision": plan.precision,
        "tokens_per_micro_step": plan.tokens_per_micro_step,
        "steps": plan.total_steps,
        "trainable_parameters": trainable_parameters(plan, shape),
    }


def _train(directory: RunDirectory, *, lifeline: int) -> TrainResult:
    command = [sys.executable, "-m", "tunesmith.worker.train", str(directory.root)]
    with directory.log.open("wb") as log:
        ended = subprocess.run(command, stdout=log, stderr=log, check=False, env=_environment(), pass_fds=(lifeline,))
    result = directory.read_result()
    if ended.returncode or result is None or result.failure:
        why = result.failure.message if result and result.failure else f"it ended with code {ended.returncode}"
        raise SystemExit(f"training failed: {why} (log: {directory.log})")
    return result


def _environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}


if __name__ == "__main__":
    main()
