"""Against printed tables."""

import pytest

from tunesmith.tuning.gate.distributions import normal_quantile, sign_test, t_probability, t_quantile


@pytest.mark.parametrize(
    ("probability", "degrees", "value"),
    [  # NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2
        (0.975, 1, 12.706), (0.975, 2, 4.303), (0.975, 10, 2.228), (0.975, 30, 2.042), (0.95, 5, 2.015),
        (0.995, 20, 2.845), (0.9, 100, 1.290), (0.999, 3, 10.215),
    ],
)  # fmt: skip
def test_the_quantiles_of_t_are_those_of_the_table(probability: float, degrees: int, value: float) -> None:
    assert t_quantile(probability, degrees=degrees) == pytest.approx(value, abs=6e-4)
    assert t_quantile(1 - probability, degrees=degrees) == pytest.approx(-value, abs=6e-4)


@pytest.mark.parametrize("degrees", [1, 2, 7, 60, 5000])
@pytest.mark.parametrize("probability", [0.01, 0.3, 0.5, 0.8, 0.999])
def test_a_quantile_has_the_probability_that_it_was_asked_for(probability: float, degrees: int) -> None:
    assert t_probability(t_quantile(probability, degrees=degrees), degrees=degrees) == pytest.approx(probability)


def test_t_with_many_degrees_is_normal() -> None:
    assert t_quantile(0.975, degrees=1_000_000) == pytest.approx(normal_quantile(0.975), abs=1e-5)


@pytest.mark.parametrize(
    ("more", "fewer", "p_value"),
    [  # twice the binomial tail, by hand: 2 * (1 + 10) / 2**10, 2 / 2**5, 2 / 2**6
        (9, 1, 0.021484375), (5, 0, 0.0625), (6, 0, 0.03125), (3, 3, 1.0), (0, 0, 1.0),
    ],
)  # fmt: skip
def test_mcnemar_is_exact(more: int, fewer: int, p_value: float) -> None:
    assert sign_test(more, fewer) == sign_test(fewer, more) == pytest.approx(p_value)
