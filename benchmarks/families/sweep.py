"""What the trainer makes of one family: a tiny model, loaded and adapted as a job would, against plain transformers."""

import json
import tempfile
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from typing import Literal

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

from benchmarks.families.planned import Planned, planned
from benchmarks.families.tiny import SEEING, tiny_config
from tunesmith.tuning.errors import JobFailure
from tunesmith.tuning.plan import Lora, MemoryEstimate, Plan, TimeEstimate
from tunesmith.tuning.words import Method
from tunesmith.worker.train.adapters.adapter import attach_adapter, trainable_parameters
from tunesmith.worker.train.adapters.fuse import fuse
from tunesmith.worker.train.data.packing import pack
from tunesmith.worker.train.data.rows import Rows
from tunesmith.worker.train.loop.objectives import supervised
from tunesmith.worker.train.models.model import Learner, load_model
from tunesmith.worker.train.models.model_trial import try_model

Outcome = Literal["packed", "unpacked", "refused", "wrong", "planned otherwise", "broken", "not built"]

LARGEST_PARAMETERS = 12_000_000
ROW_LENGTHS = (11, 24, 7, 17)
TOLERANCE = 2e-4  # relative, of loss and gradient norms in fp32
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Family:
    """What came of one model type; `difference` is the larger of loss and gradient norm, relative.

    attention: the model's own that it trains with where its rows are not packed.
    adapter_parameters: how many learn.
    planned: what the planner knows of it.
    """

    model_type: str
    outcome: Outcome
    note: str = ""
    difference: float | None = None
    attention: str | None = None
    adapter_parameters: int = 0
    planned: Planned | None = None


def sweep(model_type: str, *, seed: int = 0) -> Family:
    """Train a tiny model of the family as the trainer would, compare with one row at a time, and ask the planner."""
    family = _swept(model_type, seed=seed)
    if family.outcome == "not built":
        return family
    plan = planned(tiny_config(model_type).to_dict(), rank=_LORA.rank)
    problem = _disagreement(family, plan)
    outcome: Outcome = "planned otherwise" if problem else family.outcome
    note = "; ".join(part for part in (family.note, problem) if part)
    return replace(family, outcome=outcome, note=note, planned=plan)


def _disagreement(family: Family, plan: Planned) -> str:
    if family.outcome == "refused":
        return "" if plan.by in ("refused", "unknown") else "the planner takes it"
    if plan.by == "refused":
        return "the planner refuses it"
    if plan.by == "unknown" or family.outcome not in ("packed", "unpacked"):
        return ""
    if plan.attention != family.attention:
        return f"the planner counts with {plan.attention or 'packed rows'}"
    if plan.adapter_parameters != family.adapter_parameters:
        return f"the planner lets {plan.adapter_parameters:,} parameters learn, not {family.adapter_parameters:,}"
    return ""


def _swept(model_type: str, *, seed: int) -> Family:
    try:
        model = _build(model_type, seed=seed)
    except Exception as error:  # a foreign class, and sizes of our own making
        return Family(model_type, "not built", _first_line(error))
    with tempfile.TemporaryDirectory() as folder:
        try:
            model.save_pretrained(folder)
            vocabulary = model.get_input_embeddings().num_embeddings
        except Exception as error:
            return Family(model_type, "not built", _first_line(error))
        try:
            return _trained(model_type, Path(folder), vocabulary=vocabulary, seed=seed)
        except JobFailure as error:
            return Family(model_type, "refused", f"`{error.failure.code}`: {error.failure.message}")


def _build(model_type: str, *, seed: int) -> PreTrainedModel:
    config = tiny_config(model_type)
    auto = AutoModelForImageTextToText if model_type in SEEING else AutoModelForCausalLM
    with torch.device("meta"):
        size = sum(value.numel() for value in auto.from_config(config).parameters())
    if size > LARGEST_PARAMETERS:
        raise ValueError(f"{size / 1e6:.0f} million parameters are not tiny")
    torch.manual_seed(seed)
    model: PreTrainedModel = auto.from_config(config, attn_implementation="eager")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # initial values are so small that a wrong row would hardly show
        for value in model.parameters():
            if value.ndim >= 2:
                value.add_(torch.randn(value.shape, generator=generator), alpha=0.08)
    return model


def _trained(model_type: str, folder: Path, *, vocabulary: int, seed: int) -> Family:
    rows = _rows(vocabulary, seed=seed)
    ours = _adapted(folder, seed=seed)
    fuse(ours)
    learner = Learner(ours).train()
    trial = try_model(learner, device=_CPU, vocabulary=vocabulary)
    if not trial.packs:
        learner.attend_alone(trial.attention or "eager")
    theirs = _adapted(folder, seed=seed)
    Learner(theirs).attend_alone("eager")
    notes = [trial.reason or ""] if not trial.packs else []
    notes += [f"idle: {', '.join(sorted({name.split('.')[-4] for name in trial.idle}))}"] if trial.idle else []
    difference = _difference(learner.train(), theirs.train(), rows)
    if difference > TOLERANCE:
        difference = _difference(learner.eval(), theirs.eval(), rows)
        notes += ["draws random numbers of its own while it trains"] if difference <= TOLERANCE else []
    right: Outcome = "packed" if trial.packs else "unpacked"
    outcome: Outcome = right if difference <= TOLERANCE else "wrong"
    learning = trainable_parameters(ours)
    return Family(model_type, outcome, "; ".join(notes), difference, trial.attention, learning)


def _difference(learner: Learner, theirs: torch.nn.Module, rows: Rows) -> float:
    """Of loss and gradients, relative."""
    learner.zero_grad()
    theirs.zero_grad()
    batch = pack(range(len(rows)), rows, device=_CPU)
    loss = supervised().sums(learner, batch).loss / int(rows.supervised_counts().sum())
    expected = _one_row_at_a_time(theirs, rows)
    loss.backward()
    expected.backward()
    return max(_relative(loss, expected), *_gradient_differences(learner.model, theirs))


def _adapted(folder: Path, *, seed: int) -> torch.nn.Module:
    model = attach_adapter(load_model(folder, plan=_PLAN, device=_CPU), _LORA, continue_from=None, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():  # B starts at zero, which would hide the gradient of A
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return model


def _one_row_at_a_time(model: torch.nn.Module, rows: Rows) -> torch.Tensor:
    """Mean loss by the model's own forward pass, to its logits."""
    total = torch.zeros(())
    for row in range(len(rows)):
        ((ids, marks),) = rows.sequences(row)
        tokens = torch.from_numpy(ids.astype("int64"))
        labels = torch.where(torch.from_numpy(marks), tokens, torch.tensor(-100))
        logits = model(input_ids=tokens[None], use_cache=False).logits[0, :-1].float()
        total = total + cross_entropy(logits, labels[1:], ignore_index=-100, reduction="sum")
    return total / int(rows.supervised_counts().sum())


def _gradient_differences(ours: torch.nn.Module, theirs: torch.nn.Module) -> list[float]:
    """Of all adapters together, and of every one against the largest: a part that learns nothing must show."""
    own, other = (
        {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        for model in (ours, theirs)
    )
    if set(own) != set(other):
        return [float("inf")]
    size = torch.stack([value.norm() for value in other.values()]).norm()
    return [float((own[name] - value).norm() / size) for name, value in other.items()]


def _relative(one: torch.Tensor, other: torch.Tensor) -> float:
    difference = float(((one - other).abs() / other.abs().clamp_min(1e-9)).detach())
    return float("inf") if isnan(difference) else difference


def _rows(vocabulary: int, *, seed: int) -> Rows:
    import numpy as np

    generator = np.random.default_rng(seed)
    tokens = generator.integers(min(3, vocabulary - 1), vocabulary, sum(ROW_LENGTHS)).astype(np.int32)
    supervised_marks = generator.random(len(tokens)) < 0.6
    return Rows(
        tokens=tokens,
        supervised=supervised_marks,
        offsets=np.cumsum([0, *ROW_LENGTHS]).astype(np.int64),
        line_numbers=np.arange(1, len(ROW_LENGTHS) + 1),
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])[:160]}"


_LORA = Lora(rank=4, alpha=8, dropout=0.0, target_modules="all-linear", trainable_parameters=1)
_PLAN = Plan.model_validate(
    json.loads(
        Plan(
            method=Method.LORA,
            device="cpu",
            precision="fp32",
            attention="blocked",
            lora=_LORA,
            activation_checkpointing="none",
            optimizer="adamw",
            learning_rate=1e-3,
            schedule="constant",
            warmup_steps=0,
            weight_decay=0.0,
            max_gradient_norm=1.0,
            epochs=1,
            rows_per_step=4,
            max_sequence_length=64,
            tokens_per_micro_step=64,
            total_steps=1,
            evaluation_interval_steps=1,
            checkpoint_interval_steps=1,
            seed=0,
            memory=MemoryEstimate(items={}, total_bytes=0, budget_bytes=1),
            time=TimeEstimate(tokens_per_second=1, seconds=1, seconds_low=1, seconds_high=1),
            reasons=(),
        ).model_dump_json()
    )
)
