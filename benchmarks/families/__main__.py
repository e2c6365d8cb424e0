"""`python -m benchmarks.families [FAMILY ...]`: how every causal language model is trained.

Each family is built tiny from its own default configuration, loaded and adapted as a job would, and held against the
model's own forward pass, one row at a time, in loss and gradients. Exit code 1 when one of them is trained wrong.
"""

import sys
import warnings
from collections import Counter

from worker.train import environment  # noqa: F401 - before torch

import torch  # isort: skip
import transformers
from transformers.utils.logging import disable_progress_bar

from benchmarks.families.sweep import Family, sweep
from benchmarks.families.tiny import model_types


def main() -> int:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    disable_progress_bar()
    torch.set_num_threads(1)
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, fp32 on a CPU, LoRA on all linears.\n")
    print("| family | how it is trained | largest difference | |")
    print("|---|---|---|---|")
    outcomes: Counter[str] = Counter()
    for model_type in sys.argv[1:] or model_types():
        family = _swept(model_type)
        outcomes[family.outcome] += 1
        difference = "" if family.difference is None else f"{family.difference:.0e}"
        print(f"| {model_type} | {family.outcome} | {difference} | {family.note} |", flush=True)
    print("\n" + ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()) + ".")
    return 1 if outcomes["wrong"] or outcomes["broken"] else 0


def _swept(model_type: str) -> Family:
    try:
        return sweep(model_type)
    except Exception as error:
        return Family(model_type, "broken", f"{type(error).__name__}: {error}".replace("\n", " ")[:200])


if __name__ == "__main__":
    sys.exit(main())
