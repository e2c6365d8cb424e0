"""`python -m benchmarks.checkpoints`: how long checkpoints hold up training, for an adapter and for a whole model.

Trains a SmolLM2-135M shape with random weights on a few rows of the training benchmark by the planner's own plan and
checkpoint interval, and prints what the trainer measured of itself. Nothing is downloaded.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.training import workload
from benchmarks.training.ours import plan_for
from tunesmith.worker.run_directory import RunDirectory, TrainRequest


def main() -> None:
    """One line for each method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=64, help="of the benchmark's 64")
    parser.add_argument("--method", choices=("lora", "full"), action="append")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tunesmith-checkpoints-") as folder:
        data = Path(folder) / "workload"
        workload.build(data)
        for name in ("rows.jsonl", "tokens.jsonl"):
            lines = (data / name).read_text(encoding="utf-8").splitlines(keepends=True)
            (data / name).write_text("".join(lines[: arguments.rows]), encoding="utf-8")
        for method in arguments.method or ("lora", "full"):
            print(measure(data, method=method, root=Path(folder) / method), flush=True)


def measure(data: Path, *, method: str, root: Path) -> str:
    """Train once in a process of its own; the figures as a line."""
    spec, dataset, quiet = plan_for(data, method=method, rows_per_step=8)
    plan = quiet.model_copy(update={"checkpoint_interval_steps": max(1, -(-quiet.total_steps // 4))})
    run = RunDirectory(root)
    request = TrainRequest(
        job_id="benchmark",
        attempt_id="benchmark",
        spec=spec,
        plan=plan,
        dataset=dataset,
        model_dir=str(data / "model"),
        training_file=str(data / "rows.jsonl"),
    )
    run.create(request)
    with run.log.open("wb") as log:
        subprocess.run([sys.executable, "-m", "tunesmith.worker.train", str(root)], stdout=log, stderr=log, check=True)
    result = run.read_result()
    assert result is not None
    assert result.training_seconds
    assert result.checkpoint_stall_seconds is not None
    newest = max(run.checkpoints.glob("step-*"))
    size = sum(file.stat().st_size for file in newest.iterdir())
    return (
        f"{method:<5} {plan.total_steps} steps, a checkpoint of {size / 1e6:,.0f} MB every "
        f"{plan.checkpoint_interval_steps}: held up for {result.checkpoint_stall_seconds:.2f} s of "
        f"{result.training_seconds:.1f} s ({result.checkpoint_stall_seconds / result.training_seconds:.2%}), "
        f"MFU {result.mfu or 0:.0%}, {result.tokens_per_second or 0:.0f} tokens/s"
    )


if __name__ == "__main__":
    main()
