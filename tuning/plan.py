"""A plan: the chosen method with every launch number, its reasons, and what was rejected by which number."""

from enum import StrEnum
from typing import Literal, Self

from tunesmith.tuning.base import Value
from tunesmith.tuning.codes import ArtifactKind
from tunesmith.tuning.kernels import Kernels
from tunesmith.tuning.models.linears import Targets
from tunesmith.tuning.words import Method, OnLongRow

Attention = Literal[
    "flash_attention_4", "flash_attention_3", "flash_attention_2", "torch_flash", "flex", "sdpa", "blocked"
]


class PlanRule(StrEnum):
    """The rules of a decision. `param` is the field of a request to change where a refusal by the rule blames one."""

    param: str | None

    def __new__(cls, name: str, param: str | None = None) -> Self:
        """A rule that goes by `name` in a stored plan."""
        rule = str.__new__(cls, name)
        rule._value_ = name
        rule.param = param
        return rule

    # What no hardware could do
    DATA = "data", "training_file"
    CONTEXT_LENGTH = "context-length", "tunesmith.max_seq_length"
    TARGETS = "targets", "tunesmith.lora.target_modules"
    EXPERTS = "experts", "tunesmith.lora.target_modules"
    IMPOSSIBLE = "impossible"

    # The method
    PINNED_PLAN = "pinned-plan"
    FORCED_METHOD = "forced-method"
    NOTHING_FITS = "nothing-fits"
    WHAT_WOULD_FIT = "what-would-fit"
    ONLY_ONE_FITS = "only-one-fits"
    GOAL = "goal"
    INFORMATION = "information"
    SMALL_DATA = "small-data"
    LARGE_DATA = "large-data"
    SEVERAL_GPUS = "several-gpus"
    QUALITY = "quality"
    ADAPTER_SUFFICES = "adapter-suffices"
    BF16_BEFORE_4_BIT = "bf16-before-4-bit"
    SHARED_OUT_WEIGHTS = "shared-out-weights"

    # The recipe
    RANK = "rank"
    ALPHA = "alpha"
    LEARNING_RATE = "learning-rate"
    EPOCHS = "epochs"
    BATCH = "batch"
    SEQUENCE_LENGTH = "sequence-length"
    TOKENS = "tokens"
    VALIDATION = "validation"
    EARLY_STOPPING = "early-stopping"

    # The launch
    CONSTANTS = "constants"
    DEVICES = "devices"
    GPUS = "gpus"
    ATTENTION = "attention"
    PACKING = "packing"
    ZERO = "zero"
    OFFLOAD = "offload"
    SHARDED_BASE = "sharded-base"
    FLOAT8_BASE = "float8-base"
    OPTIMIZER = "optimizer"
    RECOMPUTATION = "recomputation"
    MICRO_STEP = "micro-step"
    BALANCE = "balance"
    PREDICTION = "prediction"


class Reason(Value):
    """One rule that took part in the decision, in a sentence a person understands."""

    rule: str  # a `PlanRule`, or one of the version that stored the plan
    text: str


class MemoryEstimate(Value):
    """Predicted peak per device, itemised. `items` adds up to `total_bytes`.

    `margin_bytes` is what is held back beyond it because predictions scatter; a plan that could not keep it says so.
    """

    items: dict[str, int]
    total_bytes: int
    budget_bytes: int
    margin_bytes: int = 0
    out_of_memory_probability: float | None = None

    @property
    def fits(self) -> bool:
        """Whether the peak stays within what is free."""
        return self.total_bytes <= self.budget_bytes


class TimeEstimate(Value):
    """Predicted speed of the training steps, and duration with evaluations, with a range for what is not known.

    Of `seconds`, `evaluation_seconds` go to forward passes over validation rows and `sample_seconds` to sample answers;
    checkpoints are written meanwhile. `tokens_per_second` is that of training steps alone, as a run measures it.

    `measured_correction` is the measured over predicted speed of earlier runs that the numbers already include.
    `micro_step_tokens_per_second` is the speed of a full micro-step alone, without the optimizer: what a canary shows.
    """

    tokens_per_second: float
    seconds: float
    seconds_low: float
    seconds_high: float
    measured_correction: float = 1.0
    micro_step_tokens_per_second: float | None = None
    evaluation_seconds: float = 0.0
    sample_seconds: float = 0.0

    @property
    def training_seconds(self) -> float:
        """Of the optimizer steps."""
        return max(0.0, self.seconds - self.evaluation_seconds - self.sample_seconds)


class Lora(Value):
    """The adapter's numbers."""

    rank: int
    alpha: float
    dropout: float
    target_modules: Targets
    use_rslora: bool = False
    use_dora: bool = False
    init: Literal["default", "pissa"] = "default"
    trainable_parameters: int


class Alternative(Value):
    """A way that was not taken, and the number or rule that decided against it."""

    method: Method
    fits: bool
    peak_bytes: int
    rejected_because: str


class Way(Value):
    """One way to run the job: what it is launched with, how long it takes, what it costs and how much it needs."""

    method: Method
    world_size: int
    zero_stage: Literal[0, 1, 2, 3]
    sharded_base: bool
    offload_optimizer: bool
    optimizer: Literal["adamw", "adamw_8bit"]
    activation_checkpointing: Literal["none", "selective", "mlp", "full"]
    tokens_per_micro_step: int
    seconds: float
    device_seconds: float  # of all devices together
    peak_bytes: int
    out_of_memory_probability: float


class Ways(Value):
    """The ends of what is possible here, of all methods that fit or of the one that was asked for."""

    quickest: Way
    cheapest: Way  # least GPU time
    safest: Way  # least likely to run out of memory; of several the quickest


class Change(Value):
    """What the plan would be on a slightly larger machine."""

    machine: Literal["one-more-gpu", "ten-gib-more"]
    way: Way
    text: str


class Plan(Value):
    """Everything the trainer needs to know, decided."""

    method: Method
    objective: Literal["supervised", "dpo"] = "supervised"
    device: Literal["cuda", "cpu"]
    device_name: str = ""  # of the GPUs that it was made for, in a machine with several kinds
    world_size: int = 1
    precision: Literal["bf16", "fp16", "fp32"]
    attention: Attention
    quantization: Literal["nf4"] | None = None
    double_quantization: bool = False
    lora: Lora | None = None
    packing: bool = True  # rows share a micro-step; else each goes through the model alone
    activation_checkpointing: Literal["none", "selective", "mlp", "full"]
    optimizer: Literal["adamw", "adamw_8bit"]
    fused_passes: bool = False  # the trainer's own forward and backward passes
    float8_base: bool = False  # adapted matrices of the base are held and multiplied in 8 bits
    zero_stage: Literal[0, 1, 2, 3] = 0
    offload_optimizer: bool = False
    sharded_base: bool = False  # the frozen 4-bit weights are shared out over the processes, as FSDP does
    learning_rate: float
    schedule: Literal["linear", "cosine", "constant"]
    warmup_steps: int
    weight_decay: float
    max_gradient_norm: float
    beta: float | None = None
    epochs: int
    rows_per_step: int  # the global batch: one optimizer step sees this many rows
    max_sequence_length: int
    on_long_row: OnLongRow = "truncate"
    tokens_per_micro_step: int  # packed rows of one forward and backward hold at most this many tokens
    total_steps: int
    evaluation_interval_steps: int
    checkpoint_interval_steps: int
    early_stopping_patience: int = 0  # evaluations without a better validation loss; 0: train to the end
    seed: int
    memory: MemoryEstimate
    time: TimeEstimate
    reasons: tuple[Reason, ...]
    alternatives: tuple[Alternative, ...] = ()
    ways: Ways | None = None
    changes: tuple[Change, ...] = ()

    @property
    def result_kind(self) -> ArtifactKind:
        """What the run leaves: an adapter, or all weights of the model."""
        return ArtifactKind.MODEL if self.lora is None else ArtifactKind.ADAPTER

    @property
    def kernels(self) -> str:
        """What its measurements are kept under."""
        return Kernels.of_plan(dict(self)).label


class Refusal(Value):
    """Nothing fits. The reasons name the number that forbids each way."""

    reasons: tuple[Reason, ...]
    alternatives: tuple[Alternative, ...] = ()

    @property
    def text(self) -> str:
        """All reasons as one paragraph."""
        return " ".join(reason.text for reason in self.reasons)
