"""A plan: the chosen method with every launch number, its reasons, and what was rejected by which number."""

from enum import StrEnum
from typing import Literal, Self

from tunesmith.tuning.codes import ArtifactKind
from tunesmith.tuning.kernels import Kernels
from tunesmith.tuning.models.linears import Targets
from tunesmith.tuning.values.base import Value
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

    # What this machine cannot do now
    DISK = "disk"

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
    PRECISION = "precision"
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
    EVALUATION = "evaluation"


class Reason(Value):
    """One rule that took part in the decision, in a sentence a person understands."""

    rule: str  # a `PlanRule`, or one of the version that stored the plan
    """The rule's short name, such as `context-length` or `learning-rate`."""
    text: str
    """What the rule decided and by which numbers."""


class MemoryEstimate(Value):
    """Predicted peak per device, itemised."""

    items: dict[str, int]
    """Bytes by what needs them: weights, gradients, optimizer, activations, and more."""
    total_bytes: int
    """The sum of all items."""
    budget_bytes: int
    """What may be used: of a GPU all that is free, of host memory a share of it."""
    margin_bytes: int = 0
    """Held back beyond the total because predictions scatter; a plan that could not keep it says so."""
    out_of_memory_probability: float | None = None
    """How likely the run is to need more than is free, from 0 to 1; null where nothing says."""

    @property
    def fits(self) -> bool:
        """Whether the peak stays within what is free."""
        return self.total_bytes <= self.budget_bytes


class TimeEstimate(Value):
    """Predicted speed of the training steps, and duration with evaluations, with a range for what is not known."""

    tokens_per_second: float
    """Speed of the training steps alone, without evaluations, as a run measures it."""
    seconds: float
    """The whole run with its evaluations; checkpoints are written meanwhile."""
    seconds_low: float
    """The lower end of the range that the time is expected in."""
    seconds_high: float
    """The upper end of that range."""
    measured_correction: float = 1.0
    """Measured over predicted speed of earlier runs, which the numbers here already include."""
    micro_step_tokens_per_second: float | None = None
    """Speed of a full micro-step alone, without the optimizer: what a canary shows."""
    evaluation_seconds: float = 0.0
    """The part of `seconds` that goes to forward passes over validation rows."""
    sample_seconds: float = 0.0
    """The part of `seconds` that goes to sample answers."""

    @property
    def working_seconds(self) -> float:
        """Without sample answers, which no settings are preferred for leaving out."""
        return self.seconds - self.sample_seconds

    @property
    def training_seconds(self) -> float:
        """Of the optimizer steps."""
        return max(0.0, self.seconds - self.evaluation_seconds - self.sample_seconds)


class Lora(Value):
    """The adapter's numbers."""

    rank: int
    """Inner size of the adapter's two matrices."""
    alpha: float
    """The adapter's output is scaled by alpha over rank, with `use_rslora` over the root of rank."""
    dropout: float
    """Share of the adapter's inputs that is zeroed in training."""
    target_modules: Targets
    """Which matrices are adapted: a group's name, or suffixes of module names."""
    use_rslora: bool = False
    """Whether alpha is divided by the square root of the rank instead of the rank."""
    use_dora: bool = False
    """Whether direction and length of the weights are learned apart (DoRA)."""
    init: Literal["default", "pissa"] = "default"
    """How the adapter starts: from zero, or from the largest singular vectors of the base."""
    trainable_parameters: int
    """How many numbers are learned."""


class Alternative(Value):
    """A way that was not taken, and the number or rule that decided against it."""

    method: Method
    """How the weights would have been changed."""
    fits: bool
    """Whether it would have fitted into memory."""
    peak_bytes: int
    """Its predicted peak on one device."""
    rejected_because: str
    """The number or the rule that decided against it."""


class Way(Value):
    """One way to run the job: what it is launched with, how long it takes, what it costs and how much it needs."""

    method: Method
    """How the weights are changed."""
    world_size: int
    """Processes, one to a device."""
    zero_stage: Literal[0, 1, 2, 3]
    """What DeepSpeed shares out: 0 nothing, 1 optimizer state, 2 gradients too, 3 weights too."""
    sharded_base: bool
    """Whether the frozen 4-bit weights are shared out over the processes."""
    offload_optimizer: bool
    """Whether the optimizer's state is kept in host memory."""
    optimizer: Literal["adamw", "adamw_8bit"]
    """AdamW with moments of 32 or of 8 bits."""
    activation_checkpointing: Literal["none", "selective", "mlp", "full"]
    """Which activations are computed again in the backward pass instead of kept."""
    tokens_per_micro_step: int
    """The most tokens that rows share a forward and backward pass in."""
    seconds: float
    """Predicted time of the run."""
    device_seconds: float
    """The same for all devices together."""
    peak_bytes: int
    """Predicted peak on one device."""
    out_of_memory_probability: float
    """How likely it is to need more than is free, from 0 to 1."""
    sample_seconds: float = 0.0
    """The part of `seconds` that goes to sample answers, which no way is preferred for leaving out."""

    @property
    def working_seconds(self) -> float:
        """Without sample answers."""
        return self.seconds - self.sample_seconds


class Ways(Value):
    """The ends of what is possible here, of all methods that fit or of the one that was asked for."""

    quickest: Way
    """Least time from start to end."""
    cheapest: Way
    """Least GPU time."""
    safest: Way
    """Least likely to run out of memory; of several the quickest."""


class Change(Value):
    """What the plan would be on a slightly larger machine."""

    machine: Literal["one-more-gpu", "ten-gib-more"]
    """What would be added: one more GPU of the same kind, or ten GiB of memory on each."""
    way: Way
    """How the job would run there."""
    text: str
    """What that would change, in a sentence."""


class Plan(Value):
    """Everything the trainer needs to know, decided."""

    method: Method
    """How the weights are changed."""
    objective: Literal["supervised", "dpo"] = "supervised"
    """What is learned."""
    device: Literal["cuda", "cpu"]
    """What it trains on."""
    device_name: str = ""
    """Which GPUs it was made for, in a machine with several kinds; else empty."""
    world_size: int = 1
    """Processes, one to a device."""
    precision: Literal["bf16", "fp16", "fp32"]
    """The number format that is computed in."""
    attention: Attention
    """The attention kernel."""
    quantization: Literal["nf4"] | None = None
    """How the frozen base is packed into 4 bits; null where it is not."""
    double_quantization: bool = False
    """Whether the scales of a packed base are packed too."""
    lora: Lora | None = None
    """The adapter; null under full fine-tuning."""
    packing: bool = True
    """Whether rows share a micro-step; else each goes through the model alone."""
    activation_checkpointing: Literal["none", "selective", "mlp", "full"]
    """Which activations are computed again in the backward pass instead of kept."""
    optimizer: Literal["adamw", "adamw_8bit"]
    """AdamW with moments of 32 or of 8 bits."""
    fused_passes: bool = False
    """Whether the trainer's own forward and backward passes are used."""
    float8_base: bool = False
    """Whether adapted matrices of the base are held and multiplied in 8 bits."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """What DeepSpeed shares out: 0 nothing, 1 optimizer state, 2 gradients too, 3 weights too."""
    offload_optimizer: bool = False
    """Whether the optimizer's state is kept in host memory."""
    sharded_base: bool = False
    """Whether the frozen 4-bit weights are shared out over the processes, as FSDP does."""
    learning_rate: float
    """The highest rate, after warm-up."""
    schedule: Literal["linear", "cosine", "constant"]
    """How the rate falls after warm-up."""
    warmup_steps: int
    """Steps over which the rate rises from zero."""
    weight_decay: float
    """AdamW's decoupled weight decay."""
    max_gradient_norm: float
    """Gradients of a larger norm are scaled down to it."""
    beta: float | None = None
    """How strongly DPO holds the model to where it started; null for other objectives."""
    epochs: int
    """Passes over all training rows."""
    rows_per_step: int
    """The global batch: one optimizer step sees this many rows, all processes together."""
    max_sequence_length: int
    """The longest row in tokens."""
    on_long_row: OnLongRow = "truncate"
    """Whether a longer row is cut or fails the job."""
    tokens_per_micro_step: int
    """Packed rows of one forward and backward pass hold at most this many tokens."""
    total_steps: int
    """Optimizer steps of the whole run."""
    evaluation_interval_steps: int
    """Steps between evaluations on held-out rows."""
    checkpoint_interval_steps: int
    """Steps between checkpoints."""
    early_stopping_patience: int = 0
    """Evaluations without a better validation loss that end training; 0 trains to the end."""
    keeps_best_weights: bool = False
    """Whether the result holds the weights of the lowest validation loss, where those of the last step are worse."""
    seed: int
    """What shuffling, dropout and the adapter's start are drawn from."""
    memory: MemoryEstimate
    """The predicted peak of one device."""
    time: TimeEstimate
    """Predicted speed and duration."""
    reasons: tuple[Reason, ...]
    """Why the plan is what it is, the method first."""
    alternatives: tuple[Alternative, ...] = ()
    """What was not chosen."""
    ways: Ways | None = None
    """The quickest, cheapest and safest of all ways that fit; null where they were not compared."""
    changes: tuple[Change, ...] = ()
    """What a slightly larger machine would change."""

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
    """What forbids each way."""
    alternatives: tuple[Alternative, ...] = ()
    """The ways that were tried, with their peaks."""

    @property
    def text(self) -> str:
        """All reasons as one paragraph."""
        return " ".join(reason.text for reason in self.reasons)
