"""Recipe rules of evaluations: how often, when they end training, and which weights are the result."""

import math

from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.plan import PlanRule, Reason
from tunesmith.tuning.words import Method

EVALUATIONS, MOST_EVALUATIONS = 6, 40
FEW_ROWS = 100  # of which a tenth says when to stop better than any number of epochs
PATIENCE_WITH_FEW_ROWS = 3


def evaluation_interval(total_steps: int, *, patience: int = 0) -> int:
    """About six evaluations a run; with early stopping four times its patience, at most forty, so that it can pay."""
    evaluations = max(EVALUATIONS, min(4 * patience, MOST_EVALUATIONS))
    return max(1, round(total_steps / evaluations))


def evaluation_count(total_steps: int, *, interval: int) -> int:
    """How often the validation rows are evaluated: before training, every `interval` steps, and after the last."""
    return 1 + math.ceil(total_steps / interval)


def choose_early_stopping(spec: JobSpec, dataset: DatasetFacts, *, total_steps: int) -> tuple[int, tuple[Reason, ...]]:
    """How many evaluations in a row may be worse than the best before training stops; 0 trains to the end."""
    asked = spec.hyperparameters.early_stopping_patience
    if asked == "auto" and not trains_until_it_stops_improving(spec, dataset):
        return 0, ()
    because = "as asked" if asked != "auto" else "because nothing foretells how soon so few rows are learnt"
    asked = PATIENCE_WITH_FEW_ROWS if asked == "auto" else asked
    if not dataset.validation_rows:
        text = f"Patience {asked} as asked has no effect: there are no validation rows."
        return 0, (Reason(rule=PlanRule.EARLY_STOPPING, text=text),)
    interval = evaluation_interval(total_steps, patience=asked)
    text = (
        f"Stops when {asked} evaluation{'s' if asked > 1 else ''} in a row bring no lower validation loss, {because}; "
        f"one every {interval:,} of {total_steps:,} steps. The result holds the best weights."
    )
    return asked, (Reason(rule=PlanRule.EARLY_STOPPING, text=text),)


def keeps_best_weights(dataset: DatasetFacts, *, method: Method, patience: int) -> tuple[bool, tuple[Reason, ...]]:
    """Whether the result holds the weights of the lowest validation loss, not the last ones.

    Always where training may stop early. Else for adapters, whose copy is small: a few hundred rows are learnt by heart
    within three epochs, and what the held-out rows lose by that is seen at no cost.
    """
    if patience:
        return True, ()
    if not dataset.validation_rows or method is Method.FULL:
        return False, ()
    text = "The result holds the weights of the evaluation with the lowest validation loss, where the last is worse."
    return True, (Reason(rule=PlanRule.EARLY_STOPPING, text=text),)


def has_few_rows(dataset: DatasetFacts) -> bool:
    """Whether there are too few to choose a number of epochs beforehand."""
    return dataset.all_rows < FEW_ROWS


def trains_until_it_stops_improving(spec: JobSpec, dataset: DatasetFacts) -> bool:
    """Whether the rules ask for early stopping by themselves."""
    return has_few_rows(dataset) and bool(dataset.validation_rows) and spec.hyperparameters.n_epochs == "auto"
