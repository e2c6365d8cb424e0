"""What accuracy means here: three answers that need no language model, from the same training rows."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from benchmarks.quality.packages import SECTIONS, Package, Split


def accuracies(split: Split) -> dict[str, float]:
    """Share of held-out rows answered rightly by each baseline."""
    answers = {
        "most frequent section": _most_frequent(split),
        "nearest name prefix": [_nearest_prefix(package, split.training) for package in split.held_out],
        "naive Bayes over words": _naive_bayes(split),
    }
    right = [package.section for package in split.held_out]
    return {
        name: sum(a == b for a, b in zip(given, right, strict=True)) / len(right) for name, given in answers.items()
    }


def _most_frequent(split: Split) -> list[str]:
    ((section, _),) = Counter(package.section for package in split.training).most_common(1)
    return [section] * len(split.held_out)


def _nearest_prefix(package: Package, training: Sequence[Package]) -> str:
    """The section of the training package whose name shares the longest beginning; the first of several."""
    return max(training, key=lambda other: _shared_beginning(other.name, package.name)).section


def _shared_beginning(one: str, other: str) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _naive_bayes(split: Split) -> list[str]:
    """Bernoulli counts with half a row added, words that occur only; sections are equally frequent."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for package in split.training:
        counts[package.section].update(_words(package))
    rows = Counter(package.section for package in split.training)
    known = {word for counter in counts.values() for word in counter}

    def score(package: Package, section: str) -> float:
        return sum(
            math.log((counts[section][word] + 0.5) / (rows[section] + 1)) for word in _words(package) if word in known
        )

    return [max(SECTIONS, key=lambda section: score(package, section)) for package in split.held_out]


def _words(package: Package) -> frozenset[str]:
    """Lower-case words of name and summary."""
    return frozenset(re.findall(r"[a-z0-9+]{3,}", f"{package.name} {package.summary}".lower()))
