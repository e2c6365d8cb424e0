"""The few distributions that a comparison needs, by textbook formulas: normal, Student's t, binomial.

Sources: NIST Digital Library of Mathematical Functions 8.17 (incomplete beta function, continued fraction 8.17.22) and
26.5.27 of Abramowitz and Stegun (Student's t by it). Compared with printed tables in the tests.
"""

import math
from statistics import NormalDist

_TERMS, _TINY, _PRECISION = 400, 1e-300, 1e-15
_NORMAL = NormalDist()


def normal_quantile(probability: float) -> float:
    """Where the standard normal distribution reaches `probability`."""
    return _NORMAL.inv_cdf(probability)


def t_probability(value: float, *, degrees: float) -> float:
    """How likely Student's t with so many degrees of freedom is at most `value`."""
    tail = 0.5 * _incomplete_beta(degrees / (degrees + value * value), degrees / 2, 0.5)
    return tail if value < 0 else 1 - tail


def t_quantile(probability: float, *, degrees: float) -> float:
    """Where it reaches `probability`, by halving an interval."""
    if probability < 0.5:
        return -t_quantile(1 - probability, degrees=degrees)
    low, high = 0.0, 1.0
    while t_probability(high, degrees=degrees) < probability:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, degrees=degrees) < probability else (low, middle)
    return (low + high) / 2


def sign_test(more: int, fewer: int) -> float:
    """How likely a fair coin falls at least as unevenly: two-sided, exact. McNemar's test asks it of changed rows."""
    thrown, rarer = more + fewer, min(more, fewer)
    if thrown == 0:
        return 1.0
    tail = sum(math.comb(thrown, heads) for heads in range(rarer + 1))
    return min(1.0, tail / int(2 ** (thrown - 1)))


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # there the fraction converges slowly: DLMF 8.17.4
        return 1 - _incomplete_beta(1 - x, b, a)
    front = a * math.log(x) + b * math.log1p(-x) - math.log(a) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(front) * _fraction(x, a, b)


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction by Lentz's method."""
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            d = 1 / _away_from_zero(1 + step * d)
            c = _away_from_zero(1 + step / c)
            value *= d * c
        if abs(d * c - 1) < _PRECISION:
            break
    return value


def _away_from_zero(number: float) -> float:
    return number if abs(number) > _TINY else _TINY
