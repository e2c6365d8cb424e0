"""The model card: what was trained, on what, how, and how well, for a person and for model hubs."""

from typing import Any

from tunesmith.tuning.models.hub import is_placeholder
from tunesmith.worker.train.checkpoints.state import TrainState
from tunesmith.worker.train.data.rows import RowNotes
from tunesmith.worker.train.export.usage import USE_OF_MODEL, use_of_adapter
from tunesmith.worker.train.run import RunContext


def model_card(run: RunContext, progress: TrainState, *, merged: dict[str, Any] | None = None) -> str:
    """README.md of the result, with the YAML head that PEFT and hubs read. `merged` is the check of a merged model."""
    plan, spec = run.plan, run.request.spec
    is_adapter = plan.lora is not None
    head = ["---", *_base_on_the_hub(run), f"library_name: {'peft' if is_adapter else 'transformers'}"]
    head += ["pipeline_tag: text-generation", "tags:", f"- {plan.method.value}", f"- {plan.objective}", "---"]
    lines = [*head, "", f"# {spec.model}, fine-tuned", "", f"Made by Tunesmith, job `{run.request.job_id}`.", ""]
    lines += ["## Use", "", *(use_of_adapter(run.request) if is_adapter else USE_OF_MODEL), ""]
    lines += ["## Results", "", "| | |", "|---|---|", *_rows(_results(progress) | _merged(merged)), ""]
    lines += ["## Data", "", "| | |", "|---|---|", *_rows(_data(run, progress)), ""]
    lines += ["## Plan", "", "| | |", "|---|---|", *_rows(_plan(run)), ""]
    lines += ["Why this plan:", "", *(f"- {reason.text}" for reason in plan.reasons), ""]
    lines += ["## Versions", "", ", ".join(f"{name} {version}" for name, version in run.versions.items()), ""]
    return "\n".join(lines)


def _base_on_the_hub(run: RunContext) -> list[str]:
    return [] if is_placeholder(run.request.base_name) else [f"base_model: {run.request.base_name}"]


def _results(progress: TrainState) -> dict[str, object]:
    return {
        "validation loss before": _number(progress.first_valid_loss),
        "validation loss after": _number(progress.last_valid_loss),
        "training loss, last step": _number(progress.last_train_loss),
        "optimizer steps": progress.step,
        "training time": f"{progress.training_seconds:.0f} s",
    }


def _merged(merged: dict[str, Any] | None) -> dict[str, object]:
    if merged is None:
        return {}
    difference, tolerance = merged["mean_difference_nats"], merged["tolerance_nats"]
    text = f"{difference:.2g} nats per token from base + adapter on {merged['tokens_compared']} held-out tokens"
    return {"merged model": f"{text}, tolerance {tolerance:g}"}


def _data(run: RunContext, progress: TrainState) -> dict[str, object]:
    held_out = len(run.validation_rows) if run.validation_rows is not None else 0
    return {
        "rows": len(run.rows),
        "rows held out for validation": held_out,
        "rows truncated": run.rows.notes.truncated,
        "chat template": _template(run.rows.notes),
        "a reply ends with": _ends(run.rows.notes),
        "tokens trained on, all epochs": progress.trained_tokens,
        "of them supervised": progress.supervised_tokens,
    }


def _template(notes: RowNotes) -> str | None:
    if not notes.default_template:
        return None
    return "the base model has none: conversations were written with a plain one, which comes with this result"


def _ends(notes: RowNotes) -> str | None:
    """What a server has to stop at; base models often do not name the token that their chat template ends with."""
    parts = [f"`{end}` in {rows:,} rows" for end, rows in sorted(notes.ends.items())]
    if notes.stops_added:
        parts.append(f"put there by the trainer in {notes.stops_added:,}, where text and template end none")
    if notes.endless:
        parts.append(f"nothing in {notes.endless:,} rows, because the model has no token for it")
    return "; ".join(parts) or None


def _plan(run: RunContext) -> dict[str, object]:
    plan = run.plan
    facts: dict[str, object] = {
        "method": plan.method.value,
        "precision": plan.precision,
        "learning rate": f"{plan.learning_rate:.3g}, {plan.schedule}, {plan.warmup_steps} steps of warm-up",
        "epochs": plan.epochs,
        "rows per step": plan.rows_per_step,
        "longest sequence": f"{plan.max_sequence_length} tokens, longer rows: {plan.on_long_row}",
        "seed": plan.seed,
    }
    if plan.lora is not None:
        targets = plan.lora.target_modules
        named = targets if isinstance(targets, str) else ", ".join(targets)
        facts["adapter"] = f"rank {plan.lora.rank}, alpha {plan.lora.alpha:g}, {named}"
    return facts


def _rows(facts: dict[str, object]) -> list[str]:
    return [f"| {name} | {value} |" for name, value in facts.items() if value is not None]


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"
