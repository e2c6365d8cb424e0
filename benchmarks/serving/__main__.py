"""`python -m benchmarks.serving [--adapters 1 8 64] [--rounds 2]`: all sides in turn, each in a process of its own."""

import argparse
import json
import subprocess
import sys
from typing import Any

import torch

from benchmarks.machine import setting
from benchmarks.serving.workload import NEW_TOKENS, RANK, REQUESTS, model_folder

SIDES = (("ours", ["ours"]), ("peft", ["peers", "peft"]), ("models", ["peers", "models"]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--adapters", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    model_folder()
    print(setting("torch", "transformers", "peft"))
    print(f"SmolLM2-135M, fp32, {REQUESTS} requests at once, {NEW_TOKENS} tokens each, rank {RANK} on all linears")
    print(f"threads: {torch.get_num_threads()}\n")
    found: list[dict[str, Any]] = []
    for round_ in range(options.rounds):
        for _, arguments in SIDES:
            found += _run(arguments, options.adapters)
            print(f"round {round_ + 1}: {arguments[-1]}", file=sys.stderr, flush=True)
    print(report(found))


COLUMNS = (  # heading, figure, how it is shown, which of several rounds
    ("tokens/s", "tokens_per_second", "{:.1f}", max),
    ("tokens/CPU s", "tokens_per_cpu_second", "{:.1f}", max),
    ("first token, s", "first_token_seconds", "{:.2f}", min),
    ("alone, s", "idle_first_token_seconds", "{:.3f}", min),
    ("alone, CPU s", "idle_first_token_cpu_seconds", "{:.3f}", min),
)


def report(found: list[dict[str, Any]]) -> str:
    """A table: of each side and number of adapters the best round, for whatever else runs here only slows it.

    Seconds of the processor are what a busy machine does not change much, with one thread.
    """
    lines = ["side      adapters" + "".join(f"{heading:>16}" for heading, *_ in COLUMNS) + "   peak, MiB"]
    for side, adapters in sorted({(each["side"], each["adapters"]) for each in found}, key=_place):
        rounds = [each for each in found if (each["side"], each["adapters"]) == (side, adapters)]
        cells = [shown.format(best(each[name] for each in rounds)) for _, name, shown, best in COLUMNS]
        peak = max(each["peak_bytes"] for each in rounds) / 1024**2
        lines.append(f"{side:<8}{adapters:>10}" + "".join(f"{cell:>16}" for cell in cells) + f"{peak:>12.0f}")
    return "\n".join(lines)


def _place(name: tuple[str, int]) -> tuple[int, int]:
    return [side for side, _ in SIDES].index(name[0]), name[1]


def _run(arguments: list[str], adapters: list[int]) -> list[dict[str, Any]]:
    module, *rest = arguments
    command = [sys.executable, "-m", f"benchmarks.serving.{module}", *rest, *map(str, adapters)]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]


if __name__ == "__main__":
    main()
