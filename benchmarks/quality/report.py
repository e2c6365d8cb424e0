"""The table of the runs there are, and whether the guide's ordering shows in it or drowns in chance."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.quality.configurations import BASES, CONFIGURATIONS
from tunesmith.tuning.words import Method

# The guide's quality tables say that the first is better than the second; the last pair is about its rule for alpha.
CLAIMS = (
    ("full", "lora-r64"),
    ("lora-r64", "lora-r16"),
    ("lora-r16", "lora-r4"),
    ("lora-r16", "qlora-r16"),
    ("full", "lora-r16"),
    ("full", "lora-r4"),
    ("lora-r64", "lora-r4"),
    ("lora-r16", "lora-r4-alpha8"),
    ("lora-r4", "lora-r4-alpha8"),
)
STANDARD_ERRORS = 2.0  # differences of fewer than this many are called chance
COLUMNS = (
    "configuration",
    "trainable",
    "learning rate",
    "alpha",
    "seeds",
    "accuracy before",
    "after: mean (range)",
    "loss",
    "training s",
    "peak RSS",
)

Record = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """Of two mean accuracies, with the standard error of that difference; both are shares, not per cent."""

    mean: float
    standard_error: float

    @property
    def verdict(self) -> str:
        """What it says about the claim that the difference is positive."""
        if abs(self.mean) < STANDARD_ERRORS * self.standard_error:
            return "cannot be told apart"
        return "shown" if self.mean > 0 else "contradicted"


def render(task: Record, records: Sequence[Record], *, right: Sequence[int]) -> str:
    """Markdown. `right` holds the index of each held-out row's section."""
    runs = _by_configuration(records)
    rows = len(right)
    data = (
        f"{task['training_rows']} training rows ({task['dataset']['tokens']:,} tokens), {task['epochs']} epochs, "
        f"{task['rows_per_step']} rows per step; {rows} held-out rows, {len(task['sections'])} sections, balanced."
    )
    versions = ", ".join(f"{name} {version}" for name, version in task["versions"].items())
    baselines = ", ".join(f"{name} {share:.1%}" for name, share in task["baselines"].items())
    chance = f"One accuracy near 50 % on {rows} rows has a binomial standard error of {binomial_error(0.5, rows):.1%}."
    return "\n".join(
        [
            f"{data}\n{task['machine']}; {versions}.\n",
            *_table(runs),
            f"\nWithout a language model, from the same training rows: {baselines}.\n{chance}\n",
            *_verdicts(runs, right),
        ]
    )


def difference(first: Sequence[Record], second: Sequence[Record], *, right: Sequence[int]) -> Difference:
    """Between the mean accuracies of two configurations on the same rows.

    The variance is that over rows of the difference of shares of seeds that were right (paired, so what is hard for
    both cancels out), plus that of either side's seeds. It errs on the large side: a seed's luck is in both terms.
    """
    mine, theirs = _shares_right(first, right), _shares_right(second, right)
    by_row = [a - b for a, b in zip(mine, theirs, strict=True)]
    variance = statistics.variance(by_row) / len(by_row) + _variance_of_mean(first) + _variance_of_mean(second)
    return Difference(statistics.fmean(by_row), math.sqrt(variance))


def binomial_error(share: float, rows: int) -> float:
    """Standard error of a share counted on that many rows."""
    return math.sqrt(share * (1 - share) / rows)


def _table(runs: dict[str, list[Record]]) -> list[str]:
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for configuration in CONFIGURATIONS:
        done = runs.get(configuration.name)
        if not done:
            continue
        four_bit = configuration.method is Method.QLORA
        before = next(runs[name][0]["accuracy"] for name, in_four_bit in BASES.items() if in_four_bit is four_bit)
        after = [run["accuracy"] for run in done]
        cells = (
            configuration.name,
            f"{done[0]['trainable_parameters'] / 1e6:.2f} M",
            f"{done[0]['learning_rate']:.2e}",
            f"{done[0]['alpha']:g}" if done[0]["alpha"] else "",
            str(len(done)),
            f"{before:.1%}",
            f"{statistics.fmean(after):.1%} ({min(after):.1%} to {max(after):.1%})",
            f"{_mean(done, 'loss'):.3f}",
            f"{_mean(done, 'training_seconds'):.0f}",
            f"{_mean(done, 'peak_memory_bytes') / 1e9:.2f} GB",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _verdicts(runs: dict[str, list[Record]], right: Sequence[int]) -> list[str]:
    lines = ["| better, it is said | difference | standard error | here |", "|---|---|---|---|"]
    for better, worse in CLAIMS:
        if better in runs and worse in runs:
            found = difference(runs[better], runs[worse], right=right)
            lines.append(
                f"| {better} > {worse} | {100 * found.mean:+.1f} points | {100 * found.standard_error:.1f} "
                f"| {found.verdict} |"
            )
    return lines if len(lines) > 2 else []


def _by_configuration(records: Sequence[Record]) -> dict[str, list[Record]]:
    runs: dict[str, list[Record]] = {}
    for record in records:
        runs.setdefault(record["configuration"], []).append(record)
    return runs


def _shares_right(runs: Sequence[Record], right: Sequence[int]) -> list[float]:
    """For each held-out row, the share of seeds that answered it rightly."""
    return [statistics.fmean(run["chosen"][row] == answer for run in runs) for row, answer in enumerate(right)]


def _variance_of_mean(runs: Sequence[Record]) -> float:
    accuracies = [run["accuracy"] for run in runs]
    return statistics.variance(accuracies) / len(accuracies) if len(accuracies) > 1 else 0.0


def _mean(runs: Sequence[Record], name: str) -> float:
    return statistics.fmean(run[name] for run in runs)
