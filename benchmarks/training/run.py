"""Our engine against TRL on one machine: an environment and a fresh process per side, interleaved A-B-B-A, medians.

    make bench-training            or   python -m benchmarks.training.run [--method lora|full] [--repeats 2]

A figure is non-padding tokens per second, over all optimizer steps and over all but the first: the first carries
one-time costs, but grouping by length puts the longest batch there, so leaving it out spares that side its slowest
step. The run is void, and says so, when a gate fails: the sides saw different numbers of tokens, a gradient norm was
zero, trainable parameters differ, or the mean losses differ by more than 1 %.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import processor

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
PEER_PACKAGES = (
    "torch==2.13.0",
    "trl==1.16.0",
    "transformers==5.23.0",
    "peft==0.21.2",
    "accelerate==1.15.0",
    "datasets==5.2.0",
)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--method", choices=("lora", "full"), default="lora")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each side")
    parser.add_argument("--peers", default="default,best")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "bench-training")
    arguments = parser.parse_args()
    workload = arguments.folder / "workload"
    if not (workload / "tokens.jsonl").exists():
        subprocess.run([sys.executable, "-m", "benchmarks.training.workload", str(workload)], check=True, cwd=ROOT)
    peer_python = ensure_peer(arguments.folder / "peer-environment")
    sides = ["tunesmith", *(f"trl-{name}" for name in arguments.peers.split(","))]
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for repeat in range(arguments.repeats):
        for side in sides if repeat % 2 == 0 else reversed(sides):
            print(f"{side}, run {repeat + 1} of {arguments.repeats} ...", file=sys.stderr, flush=True)
            results[side].append(measure(side, workload, method=arguments.method, peer_python=peer_python))
    rate = matmul_gflops()
    report = summarise(results, matmul_gflops_per_second=rate, method=arguments.method)
    (arguments.folder / f"report-{arguments.method}.json").write_text(json.dumps(report, indent=2))
    print(render(report))
    return 0 if not report["void_because"] else 1


def ensure_peer(folder: Path) -> Path:
    """The peer's own virtual environment, built once."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEER_PACKAGES], check=True)
        (folder / "ready").touch()
    return python


def measure(side: str, workload: Path, *, method: str, peer_python: Path) -> dict[str, Any]:
    """One fresh process; the last line it prints is the result."""
    if side == "tunesmith":
        command = [sys.executable, "-m", "benchmarks.training.ours", str(workload), "--method", method]
    else:
        settings = side.removeprefix("trl-")
        output = str(workload.parent / "trl-output")
        command = [
            str(peer_python),
            str(HERE / "peer_trl.py"),
            str(workload),
            "--settings",
            settings,
            "--method",
            method,
            "--output",
            output,
        ]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(os.cpu_count() or 1),
        "TOKENIZERS_PARALLELISM": "false",
    }
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {**result, "process_seconds": round(time.perf_counter() - started, 1)}


def tokens_per_second(result: dict[str, Any], *, first_step: int = 0) -> float:
    """Non-padding tokens over time, from step `first_step` (counted from 0) on."""
    pairs = list(zip(result["step_tokens"], result["step_seconds"], strict=False))[first_step:]
    return sum(tokens for tokens, _ in pairs) / sum(seconds for _, seconds in pairs)


def matmul_gflops() -> float:
    """The fastest bf16 product of two seconds, the ceiling for both sides, in billions of operations per second."""
    code = (
        "from tunesmith.worker.train import environment; import torch;"
        "from tunesmith.worker.train.profiling.rates import matmul_flops_per_second;"
        "print(matmul_flops_per_second(torch.bfloat16, device=torch.device('cpu'), seconds=2) / 1e9)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    return float(done.stdout)


def summarise(
    results: dict[str, list[dict[str, Any]]], *, matmul_gflops_per_second: float, method: str
) -> dict[str, Any]:
    """Medians, ranges, ratios and the gates."""
    from importlib import metadata

    ours = results["tunesmith"]
    flops = ours[0]["flops_per_token"]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{processor()}, {os.cpu_count()} cores, {platform.machine()}",
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "peft")},
        "method": method,
        "matmul_gflops": round(matmul_gflops_per_second),
        "sides": {
            side: {
                **{
                    name: _speed(runs, ours, first_step=first) for name, first in (("all_steps", 0), ("later_steps", 1))
                },
                "share_of_matmul_rate": round(
                    statistics.median(map(tokens_per_second, runs)) * flops / 1e9 / matmul_gflops_per_second, 3
                ),
                "peak_rss_mib": statistics.median(run["peak_rss_mib"] for run in runs),
                "process_seconds": statistics.median(run["process_seconds"] for run in runs),
                "mean_loss": round(statistics.median(map(mean_loss, runs)), 4),
            }
            for side, runs in results.items()
        },
        "void_because": [
            problem for side, runs in results.items() for run in runs for problem in gates(side, run, ours[0])
        ],
    }


def _speed(runs: list[dict[str, Any]], ours: list[dict[str, Any]], *, first_step: int) -> dict[str, Any]:
    """Tokens per second, and how many times that our own side does."""
    values = [tokens_per_second(run, first_step=first_step) for run in runs]
    own = statistics.median(tokens_per_second(run, first_step=first_step) for run in ours)
    return {
        "minimum": round(min(values), 1),
        "median": round(statistics.median(values), 1),
        "maximum": round(max(values), 1),
        "ours_over_it": round(own / statistics.median(values), 2),
    }


def gates(side: str, run: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """Reasons not to believe this run."""
    problems = []
    if sum(run["step_tokens"]) != sum(ours["step_tokens"]):
        problems.append(f"{side}: {sum(run['step_tokens'])} tokens, ours {sum(ours['step_tokens'])}")
    if min(run["gradient_norms"]) <= 0:
        problems.append(f"{side}: a gradient norm was zero")
    if ours["trainable_parameters"] and run["trainable_parameters"] != ours["trainable_parameters"]:
        problems.append(
            f"{side}: {run['trainable_parameters']} trainable parameters, ours {ours['trainable_parameters']}"
        )
    theirs, mine = mean_loss(run), mean_loss(ours)
    if abs(theirs - mine) > 0.01 * mine:
        problems.append(f"{side}: mean loss {theirs:.4f}, ours {mine:.4f}")
    return problems


def mean_loss(run: dict[str, Any]) -> float:
    """Per supervised token over the whole run."""
    weights = run["step_supervised"]
    return sum(loss * weight for loss, weight in zip(run["losses"], weights, strict=True)) / sum(weights)


def render(report: dict[str, Any]) -> str:
    """The report as a table."""
    span = "min median max"
    lines = [
        f"{report['date']}  {report['machine']}  method {report['method']}  {report['versions']}",
        f"bf16 matmul {report['matmul_gflops']} GFLOP/s",
        f"{'':14} {'tokens/s, all steps':>25} {'':>7} {'without the first':>25} {'':>7} {'of matmul':>9}",
        f"{'side':14} {span:>25} {'ours/it':>7} {span:>25} {'ours/it':>7} {'rate':>9} {'peak MiB':>9} {'loss':>8}",
    ]
    for side, row in report["sides"].items():
        parts = []
        for name in ("all_steps", "later_steps"):
            speed = row[name]
            parts.append(f"{speed['minimum']} {speed['median']} {speed['maximum']}".rjust(25))
            parts.append(f"{speed['ours_over_it']:7}")
        share, peak, loss = row["share_of_matmul_rate"], row["peak_rss_mib"], row["mean_loss"]
        lines.append(f"{side:14} {' '.join(parts)} {share:9.1%} {peak:9.0f} {loss:8}")
    lines += [f"VOID: {problem}" for problem in report["void_because"]] or ["all gates passed"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
