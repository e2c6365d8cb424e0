"""`python -m benchmarks.published [--page FILE] [--fit]`: the planner's formulas beside published runs.

Prints the figures that a test holds; `--page` writes docs/published.md; `--fit` fits the constants of speed anew to the
runs that are not held out and prints them.
"""

import argparse
from pathlib import Path

from benchmarks.published.fit import fit
from benchmarks.published.predict import Prediction, prediction
from benchmarks.published.report import mean_speed_ratio, median_memory_error, published_page, share_within_range
from benchmarks.published.runs import Book, book
from tunesmith.tuning.estimates.gpu_speed import GPU_SPEEDS, GpuSpeeds


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.published", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", type=Path, help="write the page of docs/ here")
    parser.add_argument("--fit", action="store_true", help="fit the constants of speed anew")
    options = parser.parse_args()
    known = book()
    speeds = fit(known) if options.fit else GPU_SPEEDS
    if options.fit:
        print(speeds)
    predictions = predicted(known, speeds=speeds)
    for name, part in _parts(predictions).items():
        print(
            f"{name}: memory off by {median_memory_error(part):.1%} (median), speed published / predicted "
            f"{mean_speed_ratio(part):.3f} (geometric mean), {share_within_range(part):.0%} in the stated range"
        )
    if options.page:
        options.page.write_text(published_page(known, predictions, speeds=speeds), encoding="utf-8")


def predicted(known: Book, *, speeds: GpuSpeeds = GPU_SPEEDS) -> list[Prediction]:
    """Of every run."""
    return [prediction(known, run, speeds=speeds) for run in known.runs]


def _parts(predictions: list[Prediction]) -> dict[str, list[Prediction]]:
    return {
        "all": predictions,
        "fitted": [each for each in predictions if not each.run.is_held_out],
        "held out": [each for each in predictions if each.run.is_held_out],
    }


if __name__ == "__main__":
    main()
