"""How far a predicted peak may be wrong: what is held back of free memory, and how likely a run is to need more."""

import math
from statistics import NormalDist

from tunesmith.tuning.words import Method

# Two standard deviations of measured over predicted, until a machine has measured its own: published LoRA peaks lie
# within 4 % of the predictions (median of 30), those of QLoRA scatter twice as wide.
ASSUMED_MARGINS = {Method.FULL: 0.05, Method.LORA: 0.05, Method.QLORA: 0.10}
NARROWEST_MARGIN, WIDEST_MARGIN = 0.02, 0.30
MOST_FILLED = 0.97  # of what is free: beyond it a plan is made only for a method that was asked for
NO_RISK = 0.001  # a probability of running out of memory that is not worth a slower run
DEVIATIONS = 2  # of the spread that are held back


def assumed_spread(method: Method) -> float:
    """Standard deviation of the logarithm of measured over predicted peaks, where nothing has been measured."""
    return ASSUMED_MARGINS[method] / DEVIATIONS


def margin_of(spread: float) -> float:
    """The share of a predicted peak that is held back beyond it."""
    return min(max(DEVIATIONS * spread, NARROWEST_MARGIN), WIDEST_MARGIN)


def usable_share(margin: float) -> float:
    """The share of free memory that a predicted peak may take."""
    return min(MOST_FILLED, 1 / (1 + margin))


def riskless_share(spread: float) -> float:
    """The share of free memory that a predicted peak may take so that running out is as unlikely as `NO_RISK`."""
    return math.exp(NormalDist().inv_cdf(NO_RISK) * spread)


def probability_of_running_out(peak_bytes: int, *, free_bytes: int, spread: float) -> float:
    """That a run needs more than is free, its peak being lognormal around the predicted one; four digits."""
    if peak_bytes <= 0 or free_bytes <= 0:
        return 1.0
    deviations = math.log(free_bytes / peak_bytes) / spread
    return round(1 - NormalDist().cdf(deviations), 4)
