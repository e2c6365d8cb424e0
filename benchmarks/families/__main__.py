"""`python -m benchmarks.families [FAMILY ...] [--page FILE]`: how every causal language model is trained.

Each family is built tiny from its own default configuration, loaded and adapted as a job would, and held against the
model's own forward pass, one row at a time, in loss and gradients. Prints a line for each as it goes; `--page` writes
docs/families.md. Exit code 1 when one of them is trained or planned wrong.
"""

import argparse
import sys
import warnings
from pathlib import Path

from tunesmith.worker.train import environment  # noqa: F401 - before torch

import torch  # isort: skip
import transformers
from transformers.utils.logging import disable_progress_bar

from benchmarks.families.report import counts, difference, families_page
from benchmarks.families.sweep import Family, sweep
from benchmarks.families.tiny import model_types


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.families", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="all of them unless given")
    parser.add_argument("--page", type=Path, help="write the page of docs/ here")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    disable_progress_bar()
    torch.set_num_threads(1)
    known = model_types()
    chosen, found = options.families or known, []
    for number, model_type in enumerate(chosen, start=1):
        found.append(_swept(model_type))
        parts = [found[-1].outcome, difference(found[-1]), found[-1].note]
        print(f"{number}/{len(chosen)} {model_type}: {', '.join(part for part in parts if part)}", flush=True)
    print(f"\n{counts(found)}.")
    if options.page:
        options.page.write_text(families_page(found, of=len(known)), encoding="utf-8")
    return 1 if {"wrong", "planned otherwise", "broken"} & {family.outcome for family in found} else 0


def _swept(model_type: str) -> Family:
    try:
        return sweep(model_type)
    except Exception as error:
        return Family(model_type, "broken", f"{type(error).__name__}: {error}".replace("\n", " ")[:200])


if __name__ == "__main__":
    sys.exit(main())
