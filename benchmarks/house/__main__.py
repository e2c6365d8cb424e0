"""`python -m benchmarks.house [--page FILE]`: how the source is built, in numbers, as a review once measured it."""

import argparse
from pathlib import Path

from benchmarks.house.measure import folder_sizes, measure
from benchmarks.house.report import house_page, summary

ROOT = Path(__file__).parents[2]
SOURCE = ("tuning", "service", "worker", "cli", "local")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.house", description=__doc__)
    parser.add_argument("--page", type=Path, help="write the page of docs/ here")
    options = parser.parse_args()
    trainer = ROOT / "worker" / "train"
    trees = [
        measure("all source", [ROOT / name for name in SOURCE]),
        *(measure(name, [ROOT / name], without=[trainer]) for name in SOURCE),
        measure("worker/train", [trainer]),
        measure("tests", [ROOT / "tests"]),
        measure("benchmarks", [ROOT / "benchmarks"]),
    ]
    folders = folder_sizes([ROOT / name for name in (*SOURCE, "tests", "benchmarks", "migrations")])
    sizes = {folder.relative_to(ROOT).as_posix(): number for folder, number in folders.items()}
    print(summary(trees, sizes))
    if options.page:
        options.page.write_text(house_page(trees, sizes), encoding="utf-8")


if __name__ == "__main__":
    main()
