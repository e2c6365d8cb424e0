"""Recipe rules: every hyperparameter that the user left to us, chosen with a reason."""

import math
from dataclasses import dataclass

from tunesmith.tuning.datasets.cut_rows import with_rows_cut
from tunesmith.tuning.datasets.lengths import percentile_tokens
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.models.linears import adapts_experts
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Lora, PlanRule, Reason
from tunesmith.tuning.recipe.evaluations import FEW_ROWS, has_few_rows, trains_until_it_stops_improving
from tunesmith.tuning.recipe.expert_adapters import PRESET, have_experts
from tunesmith.tuning.values.units import count, plural
from tunesmith.tuning.words import Goal, Method, Objective

SMALLEST_RANK, LARGEST_RANK = 8, 128
# Rows whose answers are longer than this on average count as a complex task.
COMPLEX_SUPERVISED_TOKENS_PER_ROW = 512
TARGET_STEPS = 100
MOST_EPOCHS_OF_FEW_ROWS = 20
# Without held-out rows: passes enough for so many looks at a row, as OpenAI's cookbook does with half as many.
LOOKS_AT_FEW_ROWS, MOST_EPOCHS_UNMEASURED = 200, 25
NAMES = {Method.FULL: "full fine-tuning", Method.LORA: "LoRA", Method.QLORA: "QLoRA"}
LARGEST_AUTO_BATCH = {Method.LORA: 64, Method.QLORA: 64, Method.FULL: 128}
# The learning-rate formula was fitted with this alpha at every rank, around this one, over sweeps of these families.
ALPHA_OF_FORMULA, RANK_OF_FORMULA, ROWS_OF_FORMULA = 32.0, 32, 128
CALIBRATED_FAMILIES = ("llama", "qwen")
LORA_RATES = 5e-5, 1e-3
# The law halves the rate for a quarter of the rows. What 7B to 8B are trained by at few rows is higher: QLoRA, Axolotl
# and Qwen have alpha x rate = 3.2e-3 to 4.8e-3, so a small batch has the rate of 16 rows, but for the law no more than
# that. SmolLM2-135M has 4.7e-4 at 16 rows; two rows a step lost 2 % of held-out loss by it (docs/planner.md).
ROWS_OF_SMALL_BATCHES, RATE_OF_SMALL_BATCHES = 16, 1.5e-4
# Full fine-tuning from 7B on: Qwen 1e-5 at 16 rows, LLaMA-Factory 1e-5, Axolotl 2e-5, Tulu 3 5e-6; all forget less.
HIDDEN_SIZE_OF_7B, LARGEST_FULL_RATE_FROM_7B = 3584, 2e-5
# Preference pairs: Tinker 1e-5 at 256 rows, Unsloth and LLaMA-Factory 5e-6 at small batches.
DPO_RATE, ROWS_OF_DPO_RATE, LOWEST_DPO_RATE = 1e-5, 256, 5e-6
# Estimated token counts come from bytes; rows must not be cut because the estimate was a little low.
ESTIMATE_MARGIN = 1.25
USUAL_SHARE = 0.99  # of the rows, whose greatest length the plan names beside that of the longest
USUAL_EPOCHS, ROWS_OF_THREE_EPOCHS, ROWS_OF_TWO_EPOCHS = 3, 10_000, 100_000
FEW_HELD_OUT = 10


@dataclass(frozen=True, slots=True)
class Batch:
    """How the data is walked through."""

    rows_per_step: int
    epochs: int
    total_steps: int
    reasons: tuple[Reason, ...]


def choose_rank(spec: JobSpec, dataset: DatasetFacts, shape: ModelShape) -> tuple[int, Reason]:
    """Rank by data size and task, raised until the adapter has a parameter for every supervised token."""
    if spec.lora.rank != "auto":
        return spec.lora.rank, Reason(rule=PlanRule.RANK, text=f"Rank {spec.lora.rank} as asked.")
    low, high, row = _rank_range(dataset, spec)
    rank = low if spec.goal in (Goal.SPEED, Goal.COST) else high
    rank = min(max(rank, SMALLEST_RANK), LARGEST_RANK)
    table = rank
    while rank < LARGEST_RANK and _adapter(shape, spec, rank) < dataset.supervised_tokens:
        rank *= 2
    text = f"Rank {rank}: {row}"
    if rank > table:
        text += (
            f" gives {table}, raised because {count(_adapter(shape, spec, table))} adapter parameters are fewer than "
            f"{count(dataset.supervised_tokens)} tokens to learn from"
        )
    if _adapter(shape, spec, rank) < dataset.supervised_tokens:
        text += f"; even rank {rank} has fewer parameters ({count(_adapter(shape, spec, rank))}) than that"
    return rank, Reason(rule=PlanRule.RANK, text=text + ".")


def choose_lora(spec: JobSpec, dataset: DatasetFacts, shape: ModelShape) -> tuple[Lora, tuple[Reason, ...]]:
    """The adapter's numbers."""
    rank, rank_reason = choose_rank(spec, dataset, shape)
    alpha, alpha_reason = _choose_alpha(spec, rank)
    parameters = _adapter(shape, spec, rank)
    names = ", ".join(linear.name for linear in shape.targets(spec.lora.target_modules))
    text = f"Adapters on {names}: {count(parameters)} parameters, {parameters / shape.parameters:.2%}"
    targets = Reason(rule=PlanRule.TARGETS, text=f"{text}.")
    lora = Lora(
        rank=rank,
        alpha=alpha,
        dropout=spec.lora.dropout,
        target_modules=spec.lora.target_modules,
        use_rslora=spec.lora.use_rslora,
        use_dora=spec.lora.use_dora,
        init=spec.lora.init,
        trainable_parameters=parameters,
    )
    return lora, (rank_reason, alpha_reason, targets, *_about_experts(spec, shape))


def choose_batch(spec: JobSpec, dataset: DatasetFacts, *, method: Method, at_least: int = 1) -> Batch:
    """Epochs and rows per optimizer step, so that a run has at least about a hundred steps where the data allows it.

    `at_least` so many rows, unless the job says how many, where only as many GPUs hold the model together.
    """
    epochs, epochs_reason = _choose_epochs(spec, dataset)
    rows, rows_reason = _choose_rows_per_step(spec, dataset, method=method, epochs=epochs, at_least=at_least)
    total = math.ceil(dataset.rows / rows) * epochs
    reasons = (_tokens(dataset), *_held_out(spec, dataset), epochs_reason, rows_reason)
    return Batch(rows_per_step=rows, epochs=epochs, total_steps=total, reasons=reasons)


def choose_learning_rate(
    spec: JobSpec, shape: ModelShape, *, method: Method, rows_per_step: int
) -> tuple[float, Reason]:
    """Peak learning rate, with the source of each number above."""
    multiplier = spec.hyperparameters.learning_rate_multiplier
    factor = 1.0 if multiplier == "auto" else multiplier
    asked = "" if multiplier == "auto" else f" x {factor:g} as asked"
    if spec.learning_rate != "auto":
        return spec.learning_rate * factor, Reason(
            rule=PlanRule.LEARNING_RATE,
            text=f"Learning rate {spec.learning_rate * factor:.2e}: as asked{asked and ',' + asked}.",
        )
    rate, text = _lora_rate(shape, rows_per_step)
    if spec.objective is Objective.DPO:
        rate, text = _preference_rate(rows_per_step)
    if method is Method.FULL:
        rate, text = _full_rate(rate, text, shape, rows_per_step)
    return rate * factor, Reason(rule=PlanRule.LEARNING_RATE, text=f"Learning rate {rate * factor:.2e}: {text}{asked}.")


def _lora_rate(shape: ModelShape, rows_per_step: int) -> tuple[float, str]:
    """5e-5 x 10 x (2000 / hidden size)^p x sqrt(rows / 128), p = 0.0775 for Qwen and 0.781 else.

    Fitted over sweeps by the Tinker cookbook. With fewer than 16 rows at least the lower of 1.5e-4 and what 16 have.
    """
    power = 0.0775 if shape.family.startswith("qwen") else 0.781

    def law(rows: int) -> float:
        return float(5e-5 * 10 * (2000 / shape.hidden_size) ** power * math.sqrt(rows / ROWS_OF_FORMULA))

    text = f"5e-5 x 10 x (2000/{shape.hidden_size})^{power:g} x sqrt({rows_per_step}/{ROWS_OF_FORMULA})"
    small_batch = min(law(ROWS_OF_SMALL_BATCHES), RATE_OF_SMALL_BATCHES)
    formula = max(law(rows_per_step), small_batch)
    if formula > law(rows_per_step):
        source = (
            "small batches are trained by" if formula == RATE_OF_SMALL_BATCHES else f"{ROWS_OF_SMALL_BATCHES} rows have"
        )
        text += f" = {law(rows_per_step):.2e}, raised to the {formula:.2e} that {source}"
    lowest, highest = LORA_RATES
    rate = min(max(formula, lowest), highest)
    if rate != formula:
        text += f" = {formula:.2e}, held within {lowest:g} and {highest:g}"
    if not shape.family.startswith(CALIBRATED_FAMILIES):
        text += f"; the formula was not calibrated for {shape.family}, which is taken for a Llama"
    return rate, text


def _preference_rate(rows_per_step: int) -> tuple[float, str]:
    rate = DPO_RATE * math.sqrt(rows_per_step / ROWS_OF_DPO_RATE)
    text = f"1e-5 x sqrt({rows_per_step}/{ROWS_OF_DPO_RATE}) for preference pairs"
    return (rate, text) if rate >= LOWEST_DPO_RATE else (LOWEST_DPO_RATE, f"{text}, at least {LOWEST_DPO_RATE:g}")


def _full_rate(lora_rate: float, text: str, shape: ModelShape, rows_per_step: int) -> tuple[float, str]:
    """A tenth of an adapter's (LoRA Without Regret, 2025), with a bound for large models."""
    rate, text = lora_rate / 10, f"{text}, a tenth of LoRA's for full fine-tuning"
    most = LARGEST_FULL_RATE_FROM_7B * math.sqrt(max(rows_per_step, ROWS_OF_SMALL_BATCHES) / ROWS_OF_FORMULA)
    if shape.hidden_size < HIDDEN_SIZE_OF_7B or rate <= most:
        return rate, text
    return most, f"{text}, and at most {most:.1e} from 7B on"


def choose_sequence_length(spec: JobSpec, dataset: DatasetFacts, shape: ModelShape) -> tuple[int, Reason]:
    """Long enough for the longest row, rounded up, within what was asked for and what the model was built for."""
    longest, asked = dataset.longest_row_tokens, spec.max_seq_length
    needed = longest if dataset.tokens_are_exact else math.ceil(longest * ESTIMATE_MARGIN)
    rounded = max(64, math.ceil(needed / 64) * 64)
    if asked != "auto" and asked <= rounded:
        text = f"Rows of up to {asked:,} tokens as asked{_cut(spec, dataset, length=asked)}."
        return asked, Reason(rule=PlanRule.SEQUENCE_LENGTH, text=text)
    length = min(rounded, shape.context_length)
    margin = "" if dataset.tokens_are_exact else f" estimated, with {ESTIMATE_MARGIN - 1:.0%} in hand"
    text = f"Rows of up to {length:,} tokens: the longest has {longest:,}{margin}"
    usual = percentile_tokens(dataset.row_length_counts, USUAL_SHARE)
    if usual is not None and usual < longest:
        text += f", {USUAL_SHARE:.0%} have at most {usual:,}"
    if asked != "auto":
        text += f"; no row needs the {asked:,} that were asked for"
    if rounded > shape.context_length:
        text += f"; the model was built for {shape.context_length:,}{_cut(spec, dataset, length=length)}"
    return length, Reason(rule=PlanRule.SEQUENCE_LENGTH, text=text + ".")


def _cut(spec: JobSpec, dataset: DatasetFacts, *, length: int) -> str:
    """What becomes of longer rows, where there are any."""
    longest = dataset.longest_row_tokens
    if longest <= length:
        return ""
    known = "" if dataset.tokens_are_exact else ", as far as their length is known"
    if spec.on_long_row == "refuse":
        return f": a longer row ends the job, and the longest has {longest:,}{known}"
    lost = 1 - with_rows_cut(dataset, length=length).tokens / dataset.tokens
    taken = f", which takes {lost:.0%} of all tokens away" if sum(dataset.row_length_counts) else ""
    return f": longer rows are cut (the longest has {longest:,}){taken}{known}"


def warmup_steps(total_steps: int) -> int:
    """Five per cent, at most 100 steps; none for a run of a few steps."""
    return 0 if total_steps < 10 else min(100, math.ceil(total_steps * 0.05))


def checkpoint_interval(total_steps: int, *, seconds_per_step: float) -> int:
    """A checkpoint about every two minutes, and at least four a run."""
    steps_in_two_minutes = max(1, int(120 / max(seconds_per_step, 1e-6)))
    return max(1, min(steps_in_two_minutes, math.ceil(total_steps / 4)))


def _rank_range(dataset: DatasetFacts, spec: JobSpec) -> tuple[int, int, str]:
    """The guide's table: lowest and highest rank, and the row that says so."""
    per_row = dataset.supervised_tokens / max(1, dataset.rows)
    complex_task = per_row > COMPLEX_SUPERVISED_TOKENS_PER_ROW or spec.objective is Objective.DPO
    task = f"a {'complex' if complex_task else 'simple'} task ({_about(per_row)} a row to learn from)"
    if spec.objective is Objective.DPO:
        task = "preference pairs, a complex task"
    if dataset.rows < 1_000:
        return (8, 16, f"under 1K rows of {task}") if complex_task else (4, 8, f"under 1K rows of {task}")
    if dataset.rows < 10_000:
        return (16, 32, f"1K-10K rows of {task}") if complex_task else (8, 16, f"1K-10K rows of {task}")
    if dataset.rows <= 100_000:
        return 32, 64, "10K-100K rows"
    return 64, 128, "over 100K rows"


def _about(tokens: float) -> str:
    return "less than 1 token" if tokens < 0.5 else plural(round(tokens), "token")


def _has_experts(shape: ModelShape) -> bool:
    return any(linear.role == "expert" for linear in shape.linears)


def _about_experts(spec: JobSpec, shape: ModelShape) -> tuple[Reason, ...]:
    """Whether a mixture's experts learn: bare parameters in `transformers`, adapted where that is asked for."""
    if not _has_experts(shape):
        return ()
    share = sum(linear.weights for linear in shape.linears if linear.role == "expert") / shape.parameters
    whole = f"The experts, {share:.0%} of all parameters,"
    if adapts_experts(spec.lora.target_modules):
        text = f"{whole} learn: each has an adapter of its own, which moves with the tokens that are sent to it."
    else:
        text = (
            f"{whole} learn nothing: adapters go on the other matrices alone here, which learns less than adapters on "
            f"every matrix of a dense model. {_next_step(shape)}"
        )
    return (Reason(rule=PlanRule.EXPERTS, text=text),)


def _next_step(shape: ModelShape) -> str:
    if have_experts(shape):
        return f"target_modules '{PRESET}' gives each expert one, for more time and with the whole base on each GPU."
    return "Where much is to be learnt a dense model of the same size takes more of it in."


def _adapter(shape: ModelShape, spec: JobSpec, rank: int) -> int:
    return shape.adapter_parameters(rank=rank, targets=spec.lora.target_modules)


def _choose_alpha(spec: JobSpec, rank: int) -> tuple[float, Reason]:
    """The same at every rank: an adapter's first steps move the weights in proportion to alpha, whatever its rank.

    The guide's 2r starved small ranks at the formula's rate: nine points of accuracy at rank 4 (docs/measurements.md).
    """
    if spec.lora.alpha != "auto":
        return spec.lora.alpha, Reason(rule=PlanRule.ALPHA, text=f"Alpha {spec.lora.alpha:g} as asked.")
    if spec.lora.use_rslora:
        alpha = ALPHA_OF_FORMULA / math.sqrt(RANK_OF_FORMULA)
        scale, plain = alpha / math.sqrt(rank), ALPHA_OF_FORMULA / rank
        text = (
            f"Alpha {alpha:.3g}: rsLoRA scales by alpha / sqrt(rank), {scale:.3g} at rank {rank} where plain LoRA has "
            f"{plain:.3g}; at rank {RANK_OF_FORMULA}, which the learning-rate formula was fitted around, both are one."
        )
        return alpha, Reason(rule=PlanRule.ALPHA, text=text)
    text = f"Alpha {ALPHA_OF_FORMULA:g}: the learning-rate formula assumes it at every rank."
    return ALPHA_OF_FORMULA, Reason(rule=PlanRule.ALPHA, text=text)


def _tokens(dataset: DatasetFacts) -> Reason:
    """How sure the counts are that rank, time and row length rest on."""
    if dataset.tokens_are_exact:
        how = "taken as exact"
    elif dataset.measured_rows:
        rows = dataset.all_rows
        how = f"measured with the model's tokenizer on {min(dataset.measured_rows, rows):,} of {plural(rows, 'row')}"
    else:
        how = "estimated from bytes"
    text = f"{count(dataset.tokens)} tokens, {count(dataset.supervised_tokens)} of them to learn: {how}."
    return Reason(rule=PlanRule.TOKENS, text=text)


def _held_out(spec: JobSpec, dataset: DatasetFacts) -> tuple[Reason, ...]:
    """What the loss is measured on, where no file says it."""
    count, rows = dataset.held_out_rows, dataset.all_rows
    if count:
        few = "; the loss on so few is a rough guide" if count < FEW_HELD_OUT else ""
        text = (
            f"{count} of {rows:,} rows {'is' if count == 1 else 'are'} held out, by hash, to measure on: one in ten, "
            f"at most 200{few}; validation 'none' trains on all of them."
        )
    elif dataset.validation_rows:
        return ()
    elif spec.validation == "none":
        text = "No row is held out, as asked: nothing will tell how well it has learnt."
    elif rows >= 10:  # counted by someone who has not thought of holding out
        return ()
    else:
        few = f"{plural(rows, 'row')} {'is' if rows == 1 else 'are'} too few to hold any out"
        text = f"{few}, so nothing will tell how well it has learnt: 10 would do."
    return (Reason(rule=PlanRule.VALIDATION, text=text),)


def _choose_epochs(spec: JobSpec, dataset: DatasetFacts) -> tuple[int, Reason]:
    epochs, why = _epochs(spec, dataset)
    return epochs, Reason(rule=PlanRule.EPOCHS, text=f"{plural(epochs, 'epoch')} {why}.")


def _epochs(spec: JobSpec, dataset: DatasetFacts) -> tuple[int, str]:
    asked = spec.hyperparameters.n_epochs
    if asked != "auto":
        return asked, "as asked"
    rows = plural(dataset.rows, "row")
    if trains_until_it_stops_improving(spec, dataset):
        return MOST_EPOCHS_OF_FEW_ROWS, f"at most, for {rows}: training stops when held-out rows stop improving"
    if has_few_rows(dataset):
        epochs = min(MOST_EPOCHS_UNMEASURED, math.ceil(LOOKS_AT_FEW_ROWS / dataset.rows))
        later = f"with {plural(FEW_ROWS - dataset.rows, 'row')} more {USUAL_EPOCHS} epochs would be usual"
        return epochs, f"for {rows}, a guess that nothing checks; {later}"
    usual = USUAL_EPOCHS if dataset.rows < ROWS_OF_THREE_EPOCHS else 2 if dataset.rows < ROWS_OF_TWO_EPOCHS else 1
    return usual, f"for {rows}"


def _choose_rows_per_step(
    spec: JobSpec, dataset: DatasetFacts, *, method: Method, epochs: int, at_least: int
) -> tuple[int, Reason]:
    asked = spec.hyperparameters.batch_size
    if asked != "auto":
        return asked, Reason(rule=PlanRule.BATCH, text=f"{plural(asked, 'row')} per step as asked.")
    most = LARGEST_AUTO_BATCH[method]
    ideal = dataset.rows * epochs / TARGET_STEPS
    usual = min(most, 2 ** math.floor(math.log2(ideal))) if ideal >= 1 else 1
    rows = max(usual, at_least)
    steps = plural(math.ceil(dataset.rows / rows) * epochs, "step")
    if rows > usual:
        why = f"raised from {usual}, because fewer GPUs do not hold the model, and each wants a row"
    elif rows == most:
        why = f"the most for {NAMES[method]}"
    elif ideal >= 1:
        why = f"the largest power of two that leaves {TARGET_STEPS} steps or more"
    else:
        why = f"because there are fewer than {TARGET_STEPS} steps even so"
    text = f"{plural(rows, 'row')} per step, {why}: {steps}."
    return rows, Reason(rule=PlanRule.BATCH, text=text)
