"""For one method: the launch settings that fit and finish soonest, or the smallest ones that still do not fit."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from tuning.activations import Checkpointing
from tuning.attention import choose_attention, keeps_scores, repeats_heads
from tuning.constants import constants_of
from tuning.corrections import Corrections, Ratios
from tuning.devices import richest
from tuning.hardware import HardwareProfile
from tuning.job import DatasetFacts, Goal, JobSpec, Method, Objective
from tuning.kernels import kernels_label
from tuning.lengths import typical_lengths
from tuning.memory import Setup, estimate, total, trainable_parameters
from tuning.plan import Attention, Lora, MemoryEstimate, Reason, TimeEstimate
from tuning.recipe import Batch, choose_batch, choose_lora, choose_sequence_length
from tuning.shape import ModelShape
from tuning.sharded_base import explain, may_be_shared
from tuning.throughput import Workload, predict, predict_evenness

ZeroStage = Literal[0, 1, 2, 3]
# A GPU gains little from more tokens per micro-step than this; a CPU from more than the other.
GPU_TOKENS = (16384, 8192, 4096, 2048, 1024, 512)
CPU_TOKENS = (2048, 1024, 512)  # speeds of 960, 1,536 and 2,048 on a CPU: docs/measurements.md
LEAST_RECOMPUTATION_FIRST: tuple[Checkpointing, ...] = ("none", "selective", "mlp", "full")
FULL_STAGES: tuple[ZeroStage, ...] = (1, 2, 3)
LORA_STAGES: tuple[ZeroStage, ...] = (0, 3)
QLORA_STAGES: tuple[ZeroStage, ...] = (0,)
FLOAT8_REASON = Reason(
    rule="float8-base",
    text="Adapted matrices of the base are held and multiplied in 8-bit floating point, as asked; its speed is a "
    "roofline and has not been measured.",
)
EVEN_ENOUGH = 0.95
CPU_USABLE_SHARE = 0.9  # other processes on the machine move too


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run the job. When `fits` is false it is the smallest way, and `blocked` may say why none exists."""

    method: Method
    setup: Setup
    batch: Batch
    lora: Lora
    max_sequence_length: int
    attention: Attention
    memory: MemoryEstimate
    time: TimeEstimate
    reasons: tuple[Reason, ...]
    correction_basis: str = ""
    blocked: str | None = None

    @property
    def fits(self) -> bool:
        """Whether this can be run here."""
        return self.blocked is None and self.memory.fits


def best_candidate(
    method: Method,
    *,
    spec: JobSpec,
    shape: ModelShape,
    dataset: DatasetFacts,
    hardware: HardwareProfile,
    corrections: Corrections,
) -> Candidate:
    """The fastest settings of `method` that fit; recompute and shard as little as fits."""
    search = _Search(method, spec=spec, shape=shape, dataset=dataset, hardware=hardware, corrections=corrections)
    return search.best()


class _Search:
    """Everything that stays the same while settings are tried."""

    def __init__(
        self,
        method: Method,
        *,
        spec: JobSpec,
        shape: ModelShape,
        dataset: DatasetFacts,
        hardware: HardwareProfile,
        corrections: Corrections,
    ) -> None:
        self.method, self.spec, self.shape, self.hardware = method, spec, shape, hardware
        self.dataset, self.corrections = dataset, corrections
        self.lora, lora_reasons = choose_lora(spec, dataset, shape)
        self.batch = choose_batch(spec, dataset, method=method)
        self.max_sequence_length, length_reason = choose_sequence_length(spec, dataset, shape)
        self.precision = _precision(hardware)
        self.attention, attention_reason = choose_attention(hardware, shape, precision=self.precision)
        adapter = () if method is Method.FULL else lora_reasons
        if spec.lora.float8_base and method is Method.LORA:
            adapter = (*adapter, FLOAT8_REASON)
        self.reasons = (*adapter, *self.batch.reasons, length_reason, attention_reason)
        row_tokens = dataset.tokens / dataset.rows
        self.workload = Workload(
            tokens_per_epoch=dataset.tokens,
            supervised_share=min(1.0, dataset.supervised_tokens / dataset.tokens),
            mean_row_tokens=min(row_tokens, self.max_sequence_length),
            rows_per_step=self.batch.rows_per_step,
            total_steps=self.batch.total_steps,
            epochs=self.batch.epochs,
            row_lengths=typical_lengths(
                dataset.row_length_counts,
                mean_tokens=row_tokens,
                longest_tokens=min(dataset.longest_row_tokens, self.max_sequence_length),
                rows=dataset.rows,
            ),
        )

    def best(self) -> Candidate:
        blocked = _blocked(self.method, self.hardware, spec=self.spec)
        smallest: tuple[int, Setup] | None = None
        for family in self._families():
            least = self._least(family)
            deficit = self._peak(least) - self._budget(least.world_size)
            if deficit <= 0 and blocked is None:
                return self._candidate(self._fastest(family))
            if smallest is None or deficit < smallest[0]:
                smallest = (deficit, least)
        assert smallest is not None  # noqa: S101  there is always at least one family
        return self._candidate(smallest[1], blocked=blocked)

    def _families(self) -> Iterator[Setup]:
        """Ways to lay out the run in the order of their cost; the first that fits with any micro-step is the one."""
        base = self._base()
        worlds = self._world_sizes()
        for world_size in worlds:
            for stage in self._zero_stages(world_size):
                yield replace(base, world_size=world_size, zero_stage=stage, fused_passes=stage == 0)
            if may_be_shared(self.method, self.spec, self.hardware, world_size=world_size):
                yield replace(base, world_size=world_size, sharded_base=True)
        if self.method is not Method.FULL:
            return
        if "bitsandbytes" in self.hardware.installed:
            yield replace(base, optimizer="adamw_8bit")
        if self._can_offload():
            for world_size in worlds:
                sharded = replace(base, world_size=world_size, zero_stage=3 if world_size > 1 else 2)
                yield replace(sharded, offload_optimizer=True, fused_passes=False)

    def _base(self) -> Setup:
        return Setup(
            method=self.method,
            device="cuda" if self.hardware.gpus else "cpu",
            precision=self.precision,
            tokens_per_micro_step=1,
            rank=self.lora.rank,
            targets=self.lora.target_modules,
            dropout=self.lora.dropout,
            double_quantization=self.method is Method.QLORA,
            preference_pairs=self.spec.objective is Objective.DPO,
            use_dora=self.lora.use_dora,
            float8_base=self.spec.lora.float8_base and self.method is Method.LORA,
            fused_passes=True,
            fused_attention=not keeps_scores(self.attention, self.shape),
            repeats_heads=repeats_heads(self.hardware, self.shape, self.attention),
            packing=self.shape.attention_alone is None,
            longest_row_tokens=self.max_sequence_length,
            constants=constants_of(self.hardware),
        )

    def _world_sizes(self) -> list[int]:
        """All GPUs first; then fewer, because a GPU with less free memory must not spoil the others."""
        free = sorted((gpu.memory_free_bytes for gpu in self.hardware.gpus), reverse=True)
        drops = {count for count in range(1, len(free)) if free[count] < free[count - 1]}
        return sorted({max(1, len(free)), 1} | drops, reverse=self.spec.goal is not Goal.COST)

    def _zero_stages(self, world_size: int) -> tuple[ZeroStage, ...]:
        """Adapters train data-parallel, and share out bf16 weights only when one device cannot hold them."""
        if world_size == 1 or not self._can_shard():
            return (0,)
        return {Method.FULL: FULL_STAGES, Method.LORA: LORA_STAGES, Method.QLORA: QLORA_STAGES}[self.method]

    def _can_shard(self) -> bool:
        """What the trainer shards: bf16 weights, and a base only where no part of the job needs it whole."""
        needs_whole_base = self.method is Method.LORA and (
            self.lora.use_dora or self.lora.init == "pissa" or self.spec.merge or self.spec.lora.float8_base
        )
        return "deepspeed" in self.hardware.installed and self.precision != "fp16" and not needs_whole_base

    def _can_offload(self) -> bool:
        """Moments and masters in host memory: the last resort, about ten times slower."""
        moments = trainable_parameters(self.shape, self._base()) * 12
        room = moments <= self.hardware.cpu.memory_free_bytes * CPU_USABLE_SHARE
        return bool(self.hardware.gpus) and self._can_shard() and room

    def _token_budgets(self, world_size: int) -> tuple[int, ...]:
        """Micro-steps hold at least the longest row and at most what one optimizer step gives one device."""
        longest = self.max_sequence_length
        if self.shape.attention_alone is not None:
            return (longest,)
        ladder = GPU_TOKENS if self.hardware.gpus else CPU_TOKENS
        per_device = self.workload.mean_row_tokens * self.batch.rows_per_step / world_size
        useful = max(longest, 256 * math.ceil(per_device / 256))
        budgets = {min(tokens, useful) for tokens in ladder if tokens > longest} | {longest}
        return tuple(sorted(budgets, reverse=True))

    def _budget(self, world_size: int) -> int:
        """Bytes free on the poorest of the devices used."""
        if not self.hardware.gpus:
            return int(self.hardware.cpu.memory_free_bytes * CPU_USABLE_SHARE)
        return richest(self.hardware.gpus, world_size)[-1].memory_free_bytes

    def _ratios(self, setup: Setup) -> Ratios:
        """What runs with these kernels measured, else with any."""
        kernels = kernels_label(
            attention=self.attention,
            checkpointing=setup.checkpointing,
            optimizer=setup.optimizer,
            fused_passes=setup.fused_passes,
            zero_stage=setup.zero_stage,
            offload=setup.offload_optimizer,
            float8_base=setup.float8_base,
            packing=setup.packing,
            sharded_base=setup.sharded_base,
        )
        return self.corrections.of(kernels)

    def _peak(self, setup: Setup) -> int:
        return int(total(self.shape, setup) * (self._ratios(setup).memory or 1.0))

    def _least(self, family: Setup) -> Setup:
        """The settings with the smallest peak: full recomputation, unless measurements say that another needs less."""
        smallest = replace(family, checkpointing="full", tokens_per_micro_step=self.max_sequence_length)
        if not self.corrections.by_kernels:
            return smallest
        return min((replace(smallest, checkpointing=some) for some in LEAST_RECOMPUTATION_FIRST), key=self._peak)

    def _fastest(self, family: Setup) -> Setup:
        """Of all micro-steps and amounts of recomputation that fit, the soonest done."""
        budget = self._budget(family.world_size)
        fitting: list[Setup] = []
        for tokens in self._token_budgets(family.world_size):
            for checkpointing in LEAST_RECOMPUTATION_FIRST:
                setup = replace(family, checkpointing=checkpointing, tokens_per_micro_step=tokens)
                if self._peak(setup) <= budget:
                    fitting.append(setup)
                    break
        return min(fitting, key=lambda setup: (self._time(setup).seconds, self._peak(setup)))

    def _time(self, setup: Setup) -> TimeEstimate:
        return predict(
            self.shape,
            setup,
            workload=self.workload,
            hardware=self.hardware,
            correction=self._ratios(setup).speed,
        )

    def _balance(self, setup: Setup) -> tuple[Reason, ...]:
        """Said where devices wait for one another for more than a few per cent of a step."""
        evenness = predict_evenness(self.shape, setup, workload=self.workload)
        if evenness > EVEN_ENOUGH:
            return ()
        text = (
            f"{setup.world_size} GPUs that share out {self.batch.rows_per_step} rows a step of such lengths work "
            f"{evenness:.0%} of the time; more rows a step would come out more evenly."
        )
        return (Reason(rule="balance", text=text),)

    def _candidate(self, setup: Setup, *, blocked: str | None = None) -> Candidate:
        memory = estimate(self.shape, setup, budget_bytes=self._budget(setup.world_size))
        time = self._time(setup)
        ratios = self._ratios(setup)
        if ratios.speed is not None:
            time = time.model_copy(update={"measured_correction": ratios.speed})
        extra = self._peak(setup) - memory.total_bytes
        if extra:
            items = memory.items | {"measured_correction": extra}
            memory = memory.model_copy(update={"items": items, "total_bytes": memory.total_bytes + extra})
        return Candidate(
            method=self.method,
            setup=setup,
            batch=self.batch,
            lora=self.lora,
            max_sequence_length=self.max_sequence_length,
            attention=self.attention,
            memory=memory,
            time=time,
            reasons=(*self.reasons, *explain(self.shape, setup), *self._balance(setup)),
            correction_basis=ratios.basis,
            blocked=blocked,
        )


def _blocked(method: Method, hardware: HardwareProfile, *, spec: JobSpec) -> str | None:
    """Why this method cannot run the job on the machine at all, whatever its memory."""
    if method is Method.FULL and spec.continues_adapter:
        return "the job continues an adapter, which full fine-tuning would throw away"
    if spec.lora.float8_base and (problem := _float8_obstacle(method, hardware, spec=spec)):
        return problem
    if method is Method.QLORA and "bitsandbytes" not in hardware.installed:
        return "QLoRA needs bitsandbytes, which is not installed on this worker"
    return None


def _float8_obstacle(method: Method, hardware: HardwareProfile, *, spec: JobSpec) -> str | None:
    if method is not Method.LORA:
        return "the job asks for a base in 8-bit floating point, which is for LoRA alone"
    if not hardware.gpus:
        return "a base in 8-bit floating point needs a GPU of compute capability 8.9 or higher"
    slowest = min(gpu.compute_capability for gpu in hardware.gpus)
    if not all(gpu.float8 for gpu in hardware.gpus):
        return (
            f"a base in 8-bit floating point needs compute capability 8.9, this GPU has {'.'.join(map(str, slowest))}"
        )
    if spec.merge:
        return "an adapter over a base in 8-bit floating point cannot be merged into the base that was registered"
    return None


def _precision(hardware: HardwareProfile) -> Literal["bf16", "fp16", "fp32"]:
    if not hardware.gpus:
        return "bf16" if hardware.cpu.bf16 else "fp32"
    return "bf16" if all(gpu.bf16 for gpu in hardware.gpus) else "fp16"
