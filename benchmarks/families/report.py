"""The page about families: a table with a short line for each, and the reasons below it."""

from collections import Counter
from collections.abc import Sequence

from benchmarks.families.sweep import LARGEST_PARAMETERS, ROW_LENGTHS, TOLERANCE, Family
from benchmarks.machine import setting
from benchmarks.pages import Reasons, bullets, page, paragraph, table

OUTCOMES = {
    "packed": "rows share a micro-step",
    "unpacked": "one row at a time, with the model's own attention",
    "refused": "a job ends before it trains, with the error in the reason",
    "not built": "transformers does not build it from its own defaults made small, so nothing was tried",
    "wrong": "trained, and loss or gradients are not the model's own: a bug",
    "planned otherwise": "trained right, and the planner takes it for something else: a bug",
    "broken": "the trainer raised an unexpected error: a bug",
}


def counts(families: Sequence[Family]) -> str:
    """How many there are of each outcome."""
    found = Counter(family.outcome for family in families)
    return ", ".join(f"{count} {outcome}" for outcome, count in found.most_common())


def difference(family: Family) -> str:
    """Of loss and gradients, as a power of ten."""
    return "" if family.difference is None else f"{family.difference:.0e}"


def families_page(families: Sequence[Family], *, of: int) -> str:
    """The whole page; `of` is how many model types there are."""
    reasons = Reasons()
    rows = [
        (
            family.model_type,
            family.outcome,
            family.attention or "",
            difference(family),
            family.planned.by if family.planned else "",
            reasons.number(family.note) if family.note else "",
        )
        for family in families
    ]
    told = {family.outcome for family in families}
    meanings = bullets(f"`{outcome}`: {meaning}." for outcome, meaning in OUTCOMES.items() if outcome in told)
    return page(
        "How each family is trained",
        paragraph(
            f"""Written by `make families` (`python -m benchmarks.families --page FILE`), {_setting()}; fp32 on a CPU,
            LoRA on all linear modules. {len(families)} of {of} model types: {counts(families)}."""
        ),
        paragraph(
            f"""Each family is built from its own default configuration with every size made small (at most
            {LARGEST_PARAMETERS / 1e6:.0f} million parameters) and random weights, saved, loaded and adapted as a job
            does it, and tried as a job tries it ([the trainer](trainer.md#the-trial-of-a-model)). Then loss
            and gradients of {len(ROW_LENGTHS)} rows of {min(ROW_LENGTHS)} to {max(ROW_LENGTHS)} tokens are compared
            with the class of transformers itself, one row at a time."""
        ),
        paragraph(
            f"""`difference` is the largest relative one of the loss and of the adapters' gradients; above {TOLERANCE:g}
            a family counts as wrong. `attention` is the model's own that it trains with where rows are not packed.
            `reason` is a number in the list below the table. What a family needs of packages that are not installed
            here (`causal_conv1d`, `mamba_ssm`) it may get on another machine."""
        ),
        meanings,
        paragraph(
            """`planned by` says what the planner goes by ([the planner](planner.md#families-without-formulas)): its
            formulas, a shape that `tunesmith models add` measures, or neither, and then `models add` refuses the
            family. Where it has one, how rows go and how many parameters of an adapter learn are held against what
            the trainer did."""
        ),
        table(("family", "outcome", "attention", "difference", "planned by", "reason"), rows),
        "## Reasons\n\n" + reasons.listed() if rows and reasons.listed() else "",
    )


def _setting() -> str:
    return setting("torch", "transformers", "peft")
