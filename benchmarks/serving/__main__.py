"""`python -m benchmarks.serving`: all sides in turn, each in a process of its own, and a table of what they did."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import setting
from benchmarks.serving.workload import LOADS, RANK, REQUESTS, Load, model_folder

SIDES = {"ours": ["ours"], "peft": ["peers", "peft"], "models": ["peers", "models"], "served": ["served"]}
MOST_SECONDS = 1800  # of one side


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--adapters", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--found", type=Path, help="lines of earlier parts of this run, which goes on behind them")
    options = parser.parse_args()
    model_folder()
    print(setting("torch", "transformers", "peft"))
    print(f"SmolLM2-135M, fp32, {REQUESTS} requests at once, rank {RANK} on all linears")
    print(f"threads: {torch.get_num_threads()}")
    found = _earlier(options.found)
    for round_ in range(options.rounds):
        for side in options.sides:
            lines = _run(SIDES[side], options.adapters)
            found += map(json.loads, lines)
            if options.found is not None:
                with options.found.open("a") as stream:
                    stream.writelines(f"{line}\n" for line in lines)
            print(f"round {round_ + 1}: {side}", file=sys.stderr, flush=True)
    print(report(found))


COLUMNS = (  # heading, figure, how it is shown, which of several rounds
    ("tokens/s", "tokens_per_second", "{:.1f}", max),
    ("tokens/CPU s", "tokens_per_cpu_second", "{:.1f}", max),
    ("first, s", "first_token_seconds", "{:.2f}", min),
    ("alone, s", "idle_first_token_seconds", "{:.3f}", min),
    ("alone, CPU s", "idle_first_token_cpu_seconds", "{:.3f}", min),
    ("over base, MiB", "over_base_mebibytes", "{:.0f}", max),
)


def report(found: list[dict[str, Any]]) -> str:
    """A table of each load: of each side and number of adapters the best round, for whatever else runs only slows it.

    Seconds of the processor are what a busy machine does not change much, with one thread.
    """
    return "\n".join(
        line for load in LOADS for line in _table(load, [each for each in found if each["load"] == load.name])
    )


def _table(load: Load, found: list[dict[str, Any]]) -> list[str]:
    least, most = load.prompt_tokens
    lines = ["", f"{load.name}: prompts of {least} to {most} tokens, {load.new_tokens} new ones"]
    lines.append("side      adapters" + "".join(f"{heading:>16}" for heading, *_ in COLUMNS))
    for side, adapters in sorted({(each["side"], each["adapters"]) for each in found}, key=_place):
        rounds = [each for each in found if (each["side"], each["adapters"]) == (side, adapters)]
        lines.append(f"{side:<8}{adapters:>10}" + "".join(f"{_cell(rounds, *column[1:]):>16}" for column in COLUMNS))
    return lines


def _cell(rounds: list[dict[str, Any]], figure: str, shown: str, best: Any) -> str:
    if figure == "over_base_mebibytes":
        rounds = [{figure: each["over_base_bytes"] / 1024**2} for each in rounds if "over_base_bytes" in each]
    known = [each[figure] for each in rounds if figure in each]
    return shown.format(best(known)) if known else "-"


def _place(name: tuple[str, int]) -> tuple[int, int]:
    return list(SIDES).index(name[0]), name[1]


def _earlier(file: Path | None) -> list[dict[str, Any]]:
    if file is None or not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text().splitlines()]


def _run(arguments: list[str], adapters: list[int]) -> list[str]:
    """What a side told, also of one that did not come to its end."""
    module, *rest = arguments
    counts = [] if module == "served" else map(str, adapters)
    command = [sys.executable, "-m", f"benchmarks.serving.{module}", *rest, *counts]
    try:
        ran = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, timeout=MOST_SECONDS)
    except subprocess.TimeoutExpired as late:
        print(f"{module}: ended after {MOST_SECONDS} s", file=sys.stderr)
        return _figures((late.stdout or b"").decode())
    if ran.returncode:
        print(f"{module}: exit code {ran.returncode}", file=sys.stderr)
    return _figures(ran.stdout)


def _figures(told: str) -> list[str]:
    return [line for line in told.splitlines() if line.startswith("{")]


if __name__ == "__main__":
    main()
