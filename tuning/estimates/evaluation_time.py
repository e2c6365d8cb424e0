"""What evaluations take beside training: forward passes over validation rows, and sample answers of bounded time."""

from typing import NamedTuple

from tunesmith.tuning.estimates.memory import Setup, Spread
from tunesmith.tuning.estimates.throughput import Basis, MicroSteps, Workload, micro_steps_of
from tunesmith.tuning.plan import TimeEstimate
from tunesmith.tuning.words import Method

SAMPLES = 3
LONGEST_PROMPT_TOKENS = 1024
LONGEST_ANSWER_TOKENS = 64
LONGEST_SECONDS = 5.0  # of an evaluation; what is said by then is kept
# Answers that take longer than the first are given at the ends of a run, and between them only within the second: a job
# of 40 s of training once spent 70 in seven evaluations.
CHEAP_SECONDS, LARGEST_SHARE = 1.0, 0.05


class EvaluationCost(NamedTuple):
    """Seconds by the formulas alone: of all evaluations' forward passes, and of the answers of one."""

    passes_seconds: float
    answers_seconds: float
    evaluations: int


class Durations(NamedTuple):
    """Seconds of a whole run, by what they go to."""

    training: float
    evaluation: float
    samples: float

    @property
    def working(self) -> float:
        """What settings are compared by: those that give no sample answers are no better for it."""
        return self.training + self.evaluation

    @property
    def total(self) -> float:
        """Of all three."""
        return self.training + self.evaluation + self.samples


NOTHING = EvaluationCost(0.0, 0.0, 0)


def most_answer_tokens(reference_tokens: float) -> int:
    """How many tokens answers may have where the longest reference has so many."""
    return min(LONGEST_ANSWER_TOKENS, int(reference_tokens * 1.5) + 8)


def can_answer(*, zero_stage: int, sharded_base: bool) -> bool:
    """Whether one process holds the whole model."""
    return zero_stage < 3 and not sharded_base


class EvaluationCosts:
    """Of one job's evaluations under any launch settings, remembered: few of these matter to a forward pass."""

    def __init__(self, micro_steps: MicroSteps, workload: Workload) -> None:
        self._micro_steps, self._workload = micro_steps, workload
        self._passes: dict[tuple[str, int, bool, bool, bool, int], float] = {}
        self._answers: dict[tuple[str, bool], float] = {}

    def of(self, basis: Basis, spread: Spread, *, tokens: int) -> EvaluationCost:
        """Spread out like this, with so many tokens a micro-step."""
        workload = self._workload
        if not workload.evaluations or not workload.validation_rows:
            return NOTHING
        gathers, fused = spread.zero_stage == 3, spread.fused_passes
        key = (basis.kind, spread.world_size, gathers, fused, spread.sharded_base, tokens)
        passes = self._passes.get(key)
        if passes is None:
            passes = self._passes[key] = workload.evaluations * self._evaluation_seconds(basis, spread, tokens)
        return EvaluationCost(passes, self._answers_of(basis, spread), workload.evaluations)

    def _answers_of(self, basis: Basis, spread: Spread) -> float:
        if not can_answer(zero_stage=spread.zero_stage, sharded_base=spread.sharded_base):
            return 0.0
        key = (basis.kind, spread.fused_passes)
        if key not in self._answers:
            self._answers[key] = self._answers_seconds(basis, spread)
        return self._answers[key]

    def _evaluation_seconds(self, basis: Basis, spread: Spread, tokens: int) -> float:
        """Of one, over the rows of the process that has most."""
        mean = self._workload.mean_row_tokens
        own_tokens = max(1.0, -(-self._workload.validation_rows // spread.world_size) * mean)
        passes = micro_steps_of(
            own_tokens, tokens_per_micro_step=tokens, packing=basis.setup.packing, mean_row_tokens=mean
        )
        return passes * self._forward_seconds(own_tokens / passes, basis, spread)

    def _answers_seconds(self, basis: Basis, spread: Spread) -> float:
        """The prompts at once, then token by token."""
        workload = self._workload
        prompts = SAMPLES * min(workload.mean_row_tokens, LONGEST_PROMPT_TOKENS)
        tokens = most_answer_tokens(workload.supervised_share * workload.mean_row_tokens)
        a_token = self._forward_seconds(SAMPLES, basis, spread)
        return self._forward_seconds(prompts, basis, spread) + tokens * a_token

    def _forward_seconds(self, tokens: float, basis: Basis, spread: Spread) -> float:
        """Half of a micro-step in which the base is frozen, a third of one in which everything learns.

        Of preference pairs the reference's pass comes to both. Nothing is made again, and no gradient travels.
        """
        one = self._micro_steps.of(basis, spread, "none", exchanges=spread.zero_stage != 2)
        return one.seconds(tokens) * _forward_share(basis.setup)


def durations(training_seconds: float, cost: EvaluationCost, *, correction: float | None = None) -> Durations:
    """Of a run whose steps take so long, `correction` included; it is what forward passes are corrected by as well."""
    answers = min(LONGEST_SECONDS, cost.answers_seconds / (correction or 1.0))
    evaluation = cost.passes_seconds / (correction or 1.0)
    return Durations(training_seconds, evaluation, _sample_seconds(answers, cost, training_seconds=training_seconds))


def with_evaluations(time: TimeEstimate, cost: EvaluationCost, *, correction: float | None = None) -> TimeEstimate:
    """A prediction for steps alone, for the whole run; its range as wide as before."""
    spent = durations(time.seconds, cost, correction=correction)
    longer = spent.total / time.seconds
    return time.model_copy(
        update={
            "seconds": spent.total,
            "seconds_low": time.seconds_low * longer,
            "seconds_high": time.seconds_high * longer,
            "evaluation_seconds": spent.evaluation,
            "sample_seconds": spent.samples,
        }
    )


def _sample_seconds(answers: float, cost: EvaluationCost, *, training_seconds: float) -> float:
    """At both ends always, and between them while they are cheap or within their share of training."""
    at_ends, between = min(2, cost.evaluations), max(0, cost.evaluations - 2)
    most = between * answers
    return at_ends * answers + (most if answers <= CHEAP_SECONDS else min(most, LARGEST_SHARE * training_seconds))


def _forward_share(setup: Setup) -> float:
    passes = 3 if setup.method is Method.FULL else 2
    reference = 1 if setup.preference_pairs else 0
    return (1 + reference) / (passes + reference)
