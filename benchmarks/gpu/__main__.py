"""`python -m benchmarks.gpu PIECE`: what to run first on a GPU, in pieces that each end within eight minutes.

Pieces: tests, kernels, memory, speed, ranks, table; `all` runs them in this order. Results grow line by line in $OUT,
else in benchmarks/gpu/results/. Random weights, no network. docs/gpu-day.md says what each answers.
"""

import argparse
import importlib
import sys
from pathlib import Path

from benchmarks.gpu import setting as settings

PIECES = {"tests": "suite", "kernels": "kernels", "memory": "memory", "speed": "speed", "ranks": "ranks"}


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    carried = settings.carry_wheels(options.wheels)
    absent = settings.missing()
    if absent:
        print(f"Missing, and needed by every piece: {', '.join(absent)}. Carry their wheels in {options.wheels}.")
        return 2
    from tunesmith.worker.train import environment  # noqa: F401 - before torch

    import torch  # isort: skip

    if options.device == "cuda" and not torch.cuda.is_available():
        print("No GPU is visible to PyTorch here; --device cpu --tiny tries the script without one.")
        return 2
    absent = settings.missing(settings.OPTIONAL)
    print(f"carried: {', '.join(carried) or 'nothing'}; not here: {', '.join(absent) or 'nothing'}", flush=True)
    for piece in list(PIECES) if options.piece == "all" else [options.piece] if options.piece in PIECES else []:
        _run(piece, options)
    from benchmarks.gpu.table import write

    print(write(settings.folder_of(options.out)))
    return 0


def _run(piece: str, options: argparse.Namespace) -> None:
    begun = settings.begin(
        piece, device=options.device, tiny=options.tiny, out=options.out, budget_seconds=options.budget
    )
    module = importlib.import_module(f"benchmarks.gpu.{PIECES[piece]}")
    module.run(begun)
    settings.free_memory(options.device)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("piece", choices=[*PIECES, "table", "all"])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="shapes that a CPU is done with in seconds")
    parser.add_argument("--out", type=Path, help="instead of $OUT or benchmarks/gpu/results")
    parser.add_argument("--budget", type=float, default=settings.BUDGET_SECONDS, help="seconds of one piece")
    parser.add_argument("--wheels", type=Path, default=settings.HERE / "wheels", help="wheels that were carried along")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
