"""Numbers as people read them."""

import pytest

from tunesmith.tuning.values.units import count


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1, "1"),
        (999, "999"),
        (999.6, "1.00K"),
        (9_996, "10.0K"),
        (999_885_952, "1.00B"),
        (99_960_000, "100M"),
        (8.03e9, "8.03B"),
        (4.5e15, "4,500T"),
    ],
)
def test_a_count_has_three_digits_and_the_unit_that_they_want(number: float, text: str) -> None:
    assert count(number) == text
