"""The plan of an evaluation: one device that holds a model, forward passes over rows, and answers token by token.

Memory is that of a LoRA step of rank nought whose every activation is made again, which is more than a forward pass
holds, with the adapters and the keys and values of the answers that are written at once. Nothing is spread over
several devices and nothing quantised: a base that one device does not hold in 16 bits is refused. No measurement of
training corrects these numbers.
"""

from tunesmith.tuning.estimates import memory
from tunesmith.tuning.estimates.memory import Setup
from tunesmith.tuning.estimates.throughput import UNCERTAINTY, MicroSteps, Workload, basis_on
from tunesmith.tuning.evaluation import EvaluationSpec
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.hardware_facts.constants import constants_of, explain_constants
from tunesmith.tuning.hardware_facts.devices import equal_devices
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import MemoryEstimate, Plan, PlanRule, Reason, Refusal, TimeEstimate
from tunesmith.tuning.search.attention_kernel import keeps_scores, plan_attention
from tunesmith.tuning.search.layouts import CPU_TOKENS, GPU_TOKENS, budgets_bytes, precision_of
from tunesmith.tuning.values.units import duration, gib
from tunesmith.tuning.words import Method

ANSWERS_AT_ONCE = {"cpu": 8, "cuda": 32}
_FORWARD_SHARE = 0.5  # of a step whose base is frozen


def plan_evaluation(
    evaluation: EvaluationSpec, *, spec: JobSpec, shape: ModelShape, dataset: DatasetFacts, hardware: HardwareProfile
) -> Plan | Refusal:
    """On the first kind of device that holds it, or why none does."""
    refused: list[Reason] = []
    for kind in equal_devices(hardware):
        place = _Place(evaluation, spec=spec, shape=shape, dataset=dataset, hardware=kind)
        decision = place.decide()
        if isinstance(decision, Plan):
            return decision
        refused += decision.reasons
    return Refusal(reasons=tuple(refused))


class _Place:
    """One kind of device."""

    def __init__(
        self,
        evaluation: EvaluationSpec,
        *,
        spec: JobSpec,
        shape: ModelShape,
        dataset: DatasetFacts,
        hardware: HardwareProfile,
    ) -> None:
        self._evaluation, self._spec, self._shape, self._dataset = evaluation, spec, shape, dataset
        self._hardware = hardware
        self._longest = min(dataset.longest_row_tokens, shape.context_length)
        self._precision = precision_of(hardware)
        self._attention, self._attention_reason = plan_attention(hardware, shape, precision=self._precision)

    def decide(self) -> Plan | Refusal:
        """The largest micro-step that fits."""
        for tokens in self._sizes():
            setup = self._setup(tokens)
            peak = self._memory(setup)
            if peak.fits:
                return self._plan(setup, peak)
        return Refusal(reasons=(self._too_large(peak),))

    def _sizes(self) -> list[int]:
        """Those of training that hold the longest row, and its own length."""
        ladder = GPU_TOKENS if self._hardware.gpus else CPU_TOKENS
        larger = [] if self._shape.attention_alone is not None else [size for size in ladder if size > self._longest]
        return [*larger, self._longest]

    def _setup(self, tokens: int) -> Setup:
        return Setup(
            method=Method.LORA,
            device="cuda" if self._hardware.gpus else "cpu",
            precision=self._precision,
            tokens_per_micro_step=tokens,
            checkpointing="full",
            fused_attention=not keeps_scores(self._attention, self._shape),
            packing=self._shape.attention_alone is None,
            longest_row_tokens=self._longest,
            constants=constants_of(self._hardware),
        )

    def _memory(self, setup: Setup) -> MemoryEstimate:
        forward = memory.estimate(self._shape, setup, budget_bytes=budgets_bytes(self._hardware)[0])
        more = {"adapters": self._evaluation.adapter_bytes, "answers": self._answer_bytes(setup)}
        items = forward.items | {name: size for name, size in more.items() if size}
        return forward.model_copy(update={"items": items, "total_bytes": sum(items.values())})

    def _answer_bytes(self, setup: Setup) -> int:
        """Keys and values of every token of the answers that are written at once, and their prompts."""
        if self._evaluation.score is None:
            return 0
        tokens = self._longest + self._evaluation.max_answer_tokens
        width = 2 * self._shape.key_value_size * self._shape.layers * setup.compute_bytes
        return ANSWERS_AT_ONCE[setup.device] * tokens * width

    def _plan(self, setup: Setup, peak: MemoryEstimate) -> Plan:
        time = self._time(setup)
        return Plan(
            method=Method.FULL,
            device=setup.device,
            device_name=self._hardware.gpus[0].name if self._hardware.gpus else "",
            precision=setup.precision,
            attention=self._attention,
            packing=setup.packing,
            activation_checkpointing="none",
            optimizer="adamw",
            learning_rate=0.0,
            schedule="constant",
            warmup_steps=0,
            weight_decay=0.0,
            max_gradient_norm=0.0,
            epochs=0,
            rows_per_step=1,
            max_sequence_length=self._longest,
            on_long_row=self._spec.on_long_row,
            tokens_per_micro_step=setup.tokens_per_micro_step,
            total_steps=self._models * self._dataset.rows,
            evaluation_interval_steps=1,
            checkpoint_interval_steps=1,
            seed=self._spec.seed,
            memory=peak,
            time=time,
            reasons=(
                Reason(rule=PlanRule.EVALUATION, text=_way(peak, time, hardware=self._hardware)),
                self._attention_reason,
                explain_constants(self._hardware, precision=setup.precision),
            ),
        )

    @property
    def _models(self) -> int:
        return 1 if self._evaluation.against is None else 2

    def _time(self, setup: Setup) -> TimeEstimate:
        """All rows once through each model, then prompts and answers, a token of all that are written at a time."""
        tokens = max(1, self._dataset.tokens)
        passes = self._models * self._forward(tokens, setup)
        answers = 0.0
        if self._evaluation.score is not None:
            at_once = ANSWERS_AT_ONCE[setup.device]
            groups = -(-self._dataset.rows // at_once)
            written = min(self._evaluation.max_answer_tokens, 2 * tokens // max(1, self._dataset.rows))
            answers = passes + self._models * groups * written * self._forward(at_once, setup)
        seconds = passes + answers
        return TimeEstimate(
            tokens_per_second=self._models * tokens / passes,
            seconds=seconds,
            seconds_low=seconds * (1 - UNCERTAINTY),
            seconds_high=seconds * (1 + UNCERTAINTY),
            evaluation_seconds=passes,
            sample_seconds=answers,
        )

    def _forward(self, tokens: float, setup: Setup) -> float:
        mean = self._dataset.tokens / self._dataset.rows
        share = self._dataset.supervised_tokens / max(1, self._dataset.tokens)
        work = Workload(
            supervised_share=share,
            mean_row_tokens=mean,
            rows_per_step=1,
            total_steps=1,
            epochs=1,
            row_lengths=(mean,),
        )
        size = min(tokens, setup.tokens_per_micro_step)
        basis = basis_on(self._hardware, setup, self._shape)
        whole = MicroSteps(self._shape, work).of(basis, setup, setup.checkpointing).seconds(size)
        return _FORWARD_SHARE * whole * tokens / size

    def _too_large(self, peak: MemoryEstimate) -> Reason:
        where = self._hardware.gpus[0].name if self._hardware.gpus else self._hardware.cpu.model
        text = (
            f"An evaluation holds the model whole: it needs {gib(peak.total_bytes)} on {where}, and "
            f"{gib(peak.budget_bytes)} are free."
        )
        return Reason(rule=PlanRule.NOTHING_FITS, text=text)


def _way(peak: MemoryEstimate, time: TimeEstimate, *, hardware: HardwareProfile) -> str:
    where = f"this {hardware.gpus[0].name}" if hardware.gpus else hardware.cpu.model
    return (
        f"Forward passes alone, on one device: predicted peak {gib(peak.total_bytes)} of {gib(peak.budget_bytes)} free "
        f"on {where}, {duration(time.seconds_low)} to {duration(time.seconds_high)}."
    )
