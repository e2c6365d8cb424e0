"""The learning rate as a pure function of the step, so that resuming needs no scheduler state."""

import math

from tunesmith.tuning.plan import Plan


def learning_rate_at(step: int, *, plan: Plan, total_steps: int) -> float:
    """Rate for optimizer step `step` (the first is 1): linear warm-up, then linear, cosine or constant."""
    if step <= plan.warmup_steps:
        return plan.learning_rate * step / max(1, plan.warmup_steps)
    if plan.schedule == "constant":
        return plan.learning_rate
    # The last step still learns something: decay reaches zero one step after it.
    progress = (step - 1 - plan.warmup_steps) / max(1, total_steps - plan.warmup_steps)
    if plan.schedule == "linear":
        return plan.learning_rate * (1.0 - progress)
    return plan.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
