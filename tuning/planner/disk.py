"""What a run writes to its worker's disk, and whether a machine has room for it."""

from tunesmith.tuning.job import DatasetFacts
from tunesmith.tuning.plan import Plan, PlanRule, Reason, Refusal
from tunesmith.tuning.values.units import gib

_KEPT_CHECKPOINTS = 3
_WRITTEN_ASIDE = 1  # a checkpoint exists twice while the newest replaces the oldest
_BYTES_PER_TRAINED_PARAMETER = 12  # fp32 master, and two fp32 moments of Adam
_BYTES_OF_BEST = 4  # for a trained parameter: the fp32 weights of the best evaluation
_BYTES_OF_RESULT = 4  # for a trained parameter
_BYTES_PER_TOKEN = 5  # a tokenised row has an id of four bytes and a mark of one for each
_MARGIN = 1.1


def state_bytes(plan: Plan, *, model_parameters: int) -> int:
    """Checkpoints and the result of a training run. `model_parameters` are those of the whole model."""
    trained = model_parameters if plan.lora is None else plan.lora.trainable_parameters
    state = _BYTES_PER_TRAINED_PARAMETER + (_BYTES_OF_BEST if plan.keeps_best_weights else 0)
    return trained * (state * (_KEPT_CHECKPOINTS + _WRITTEN_ASIDE) + _BYTES_OF_RESULT)


def with_margin(needed_bytes: float) -> int:
    """A tenth on top, for logs and what else is small."""
    return int(needed_bytes * _MARGIN)


def refuse_small_disk(
    plan: Plan,
    dataset: DatasetFacts,
    *,
    trains: bool,
    model_parameters: int,
    missing_model_bytes: int,
    free_bytes: int,
) -> Refusal | None:
    """That a machine's disk is too small for the run; None when it is large enough, or when nobody looked (zero)."""
    state = state_bytes(plan, model_parameters=model_parameters) if trains else 0
    needed = with_margin(missing_model_bytes + dataset.tokens * _BYTES_PER_TOKEN + state)
    if not free_bytes or needed <= free_bytes:
        return None
    model = f" ({gib(missing_model_bytes)} for the model, which is not there yet)" if missing_model_bytes else ""
    text = f"The run needs {gib(needed)} on the worker's disk{model} and {gib(free_bytes)} are free."
    return Refusal(reasons=(Reason(rule=PlanRule.DISK, text=text),))
