"""Two files are compared by a few hundred rows of each, taken by their hashes."""

import random

from tunesmith.tuning.datasets.doctor.row_sample import MOST_SAMPLED, Overlap, RowSample, overlap


def sample(values: list[int]) -> tuple[str, ...]:
    taken = RowSample()
    for value in values:
        taken.add(value)
    return taken.hashes


def test_the_smallest_different_hashes_are_kept_in_whatever_order_they_come() -> None:
    values = [random.Random(1).getrandbits(64) for _ in range(5000)]
    wanted = tuple(f"{value:016x}" for value in sorted(set(values))[:MOST_SAMPLED])
    assert sample(values) == sample(values[::-1] + values) == wanted


def test_small_files_are_compared_whole() -> None:
    assert overlap(sample([1, 2, 3, 3]), other=sample([3, 4])) == Overlap(3, 1, is_exact=True)
    assert overlap(sample([]), other=sample([3])) == Overlap(0, 0, is_exact=True)


def test_of_large_files_the_share_is_about_right() -> None:
    numbers = random.Random(2)
    training = [numbers.getrandbits(64) for _ in range(20_000)]
    validation = training[:600] + [numbers.getrandbits(64) for _ in range(1400)]
    found = overlap(sample(validation), other=sample(training))
    assert not found.is_exact
    assert found.compared >= 15
    assert overlap(sample(training), other=sample(training)) == Overlap(256, 256, is_exact=False)
    assert overlap(sample(validation[600:]), other=sample(training)).shared == 0
    small = overlap(sample(training[:100]), other=sample(training))
    assert 0 < small.shared == small.compared
