"""What the planner's formulas say of a published run, with the peer's settings in place of ours."""

from dataclasses import dataclass, replace

from benchmarks.published.runs import Book, Run, Stack
from tunesmith.tuning.estimates.gpu_speed import GPU_SPEEDS, GpuSpeeds
from tunesmith.tuning.estimates.memory import Setup, estimate, trainable_parameters
from tunesmith.tuning.estimates.throughput import Workload, predict
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.words import Method

GB = 1e9
HIDDEN_BY_FSDP = 0.9  # assumed: of the time of arithmetic, behind which FSDP's gathers and sums hide
TRANSIENTS = ("layer_backward", "logits")
STATES = ("gradients", "optimizer", "adapters_and_optimizer")


@dataclass(frozen=True, slots=True)
class Prediction:
    """For one published run; None where the source has no figure to hold it against."""

    run: Run
    memory_gb: float | None
    tokens_per_second: float | None
    seconds_spread: tuple[float, float] = (1.0, 1.0)  # stated range of time over the time predicted

    @property
    def memory_ratio(self) -> float | None:
        """Predicted over published."""
        return self.memory_gb / self.run.memory_gb if self.memory_gb and self.run.memory_gb else None

    @property
    def speed_ratio(self) -> float | None:
        """Published over predicted."""
        both = self.run.tokens_per_second and self.tokens_per_second
        return self.run.tokens_per_second / self.tokens_per_second if both else None

    @property
    def within_range(self) -> bool | None:
        """Whether the published time lies in the range that the planner states."""
        if self.speed_ratio is None:
            return None
        low, high = self.seconds_spread
        return low <= 1 / self.speed_ratio <= high


def setup_of(run: Run, stack: Stack) -> Setup:
    """The planner's words for how the peer ran."""
    return Setup(
        method=run.method,
        device="cuda",
        precision="bf16",
        tokens_per_micro_step=run.rows * run.row_tokens,
        checkpointing=run.recomputation,
        optimizer=run.optimizer,
        rank=run.rank,
        targets=run.targets,
        dropout=run.dropout,
        double_quantization=run.double_quantization,
        zero_stage=run.zero_stage,
        world_size=len(run.hardware.gpus),
        fused_passes=stack.fused,
        repeats_heads=stack.repeats_heads,
        longest_row_tokens=run.row_tokens,
    )


def prediction(book: Book, run: Run, *, speeds: GpuSpeeds = GPU_SPEEDS) -> Prediction:
    """Memory and speed by the planner's formulas."""
    shape, stack = book.shape(run), book.stack(run)
    setup = setup_of(run, stack)
    memory = _memory_bytes(shape, setup, run=run, stack=stack) / GB if run.memory_gb else None
    if run.tokens_per_second is None:
        return Prediction(run, memory, None)
    rows_per_step = run.rows * run.accumulation * setup.world_size
    workload = Workload(
        supervised_share=1.0,
        mean_row_tokens=run.row_tokens,
        rows_per_step=rows_per_step,
        total_steps=100,
        epochs=1,
        row_lengths=(float(run.row_tokens),),
    )
    if stack.prefetches:
        speeds = replace(speeds, hidden=HIDDEN_BY_FSDP)
    time = predict(shape, setup, workload=workload, hardware=run.hardware, speeds=speeds)
    spread = (time.seconds_low / time.seconds, time.seconds_high / time.seconds)
    return Prediction(run, memory, time.tokens_per_second * run.real_share, spread)


def _memory_bytes(shape: ModelShape, setup: Setup, *, run: Run, stack: Stack) -> float:
    if stack.activation_tensors is not None:
        shape = shape.model_copy(update={"activation_tensors": stack.activation_tensors})
    items = dict(estimate(shape, setup, budget_bytes=0).items)
    context, slack = items.pop("context"), items.pop("slack")
    tokens = setup.tokens_per_micro_step
    at_the_update = 0.0
    if stack.parameter is not None:
        _keep_16_bit_gradients(items, shape, setup)
        at_the_update = _replace_states(items, shape, setup, stack=stack)
    if stack.logits:
        whole = stack.logits * tokens * shape.vocab_size
        items["logits"] = max(whole, *(items.pop(name, 0) for name in TRANSIENTS))
    if run.offloaded_activations:
        items["activations"] = 0
    if stack.four_bit_inputs:
        items["inputs"] = _inputs_of_frozen_linears(shape, setup)
    if stack.share_out_base:
        items = {name: size / setup.world_size for name, size in items.items()}
    total = max(at_the_update, sum(items.values()))
    return total + (slack if stack.reserved else 0) + (context + slack if stack.counts_context else 0)


def _replace_states(items: dict[str, float], shape: ModelShape, setup: Setup, *, stack: Stack) -> float:
    """Put the peer's states in the place of ours, of adapters likewise; those that are there before the backward pass.

    Gradients come as activations go, so the peak is at one of the two ends: what there is at the other, the update,
    is returned.
    """
    shards = setup.world_size if setup.zero_stage == 3 else 1
    for name in STATES:
        items.pop(name, None)
    if setup.method is Method.FULL:
        items["weights"] = 0
    a_parameter = trainable_parameters(shape, setup) / shards
    items["optimizer"] = a_parameter * ((stack.parameter or 0) - stack.gradient)
    return items["weights"] + a_parameter * (stack.parameter or 0)


def _keep_16_bit_gradients(items: dict[str, float], shape: ModelShape, setup: Setup) -> None:
    """Ours are added up in fp32, which widens those of a layer's matrix and of the head as they come."""
    if setup.method is not Method.FULL:
        return
    widened = {"layer_backward": shape.largest_linear, "logits": shape.vocab_size * shape.hidden_size}
    for name in items.keys() & widened.keys():
        items[name] -= 4 * widened[name]


def _inputs_of_frozen_linears(shape: ModelShape, setup: Setup) -> float:
    """Different inputs of the matrices of a layer: of q, k and v together, of o, of gate and up, and of the last."""
    if setup.checkpointing == "full":
        return 0.0
    per_token = 2 * shape.hidden_size + shape.query_size + shape.intermediate_size
    return setup.tokens_per_micro_step * shape.layers * per_token * setup.compute_bytes
