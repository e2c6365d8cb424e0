"""The adapter folded into its base: published only when it says what base and adapter say together.

Both are read back from disk, so what is compared is what is published. The tolerance is on log-probabilities of
held-out tokens: rounding a merged weight to 16 bits moves them a little; a wrong merge moves them a lot.
"""

import gc
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Category, Failure, JobFailure
from tunesmith.worker.train.data.packing import pack, plan_micro_steps
from tunesmith.worker.train.data.rows import Rows
from tunesmith.worker.train.export.settings import publish_settings
from tunesmith.worker.train.kernels.loss import token_log_probabilities
from tunesmith.worker.train.models.model import Learner, load_model
from tunesmith.worker.train.run import RunContext

MERGED = "merged"
ROWS_COMPARED = 32
MEAN_TOLERANCE = {"bf16": 0.05, "fp16": 0.01, "fp32": 1e-4}  # nats per token, mean absolute difference


def write_merged_model(run: RunContext, trained: Learner) -> dict[str, Any]:
    """Write output/merged, a plain model folder; memory of the trained model is given back first.

    Returns what was compared: `mean_difference_nats`, `tolerance_nats` and `tokens_compared`.

    Raises:
        JobFailure: `merged_model_differs`, with the difference measured.
    """
    from peft import PeftModel

    rows = run.validation_rows if run.validation_rows is not None else run.rows
    folder = run.directory.output / MERGED
    run.recorder.event("Merging the adapter into its base.")
    trained.model = torch.nn.Identity()
    gc.collect()
    adapted = PeftModel.from_pretrained(_base(run), run.directory.output, local_files_only=True)
    wanted = _log_probabilities(adapted, trained, run, rows)
    merged: PreTrainedModel = adapted.merge_and_unload()
    publish_settings(merged, run)
    merged.save_pretrained(folder)
    run.tokenizer.save_pretrained(folder)
    del adapted, merged
    gc.collect()
    plain = load_model(folder, plan=run.plan.model_copy(update={"quantization": None}), device=run.device)
    got = _log_probabilities(plain, trained, run, rows)
    return _compare(run, wanted, got, folder)


def _base(run: RunContext) -> PreTrainedModel:
    """The base as it was trained over: a 4-bit one dequantised, because that is what the adapter corrects."""
    model = load_model(run.model_folder, plan=run.plan, device=run.device)
    return model if run.plan.quantization is None else model.dequantize()


@torch.no_grad()
def _log_probabilities(model: torch.nn.Module, trained: Learner, run: RunContext, rows: Rows) -> torch.Tensor:
    learner = Learner(model.eval(), attention=run.attention)
    learner.attend_as(trained)
    chosen = range(min(len(rows), ROWS_COMPARED))
    parts = []
    budget = run.plan.tokens_per_micro_step
    for group in plan_micro_steps(chosen, rows.lengths(), token_budget=budget, together=learner.packs):
        batch = pack(group, rows, device=run.device)
        parts.append(learner(batch, token_log_probabilities))
    return torch.cat(parts)


def _compare(run: RunContext, wanted: torch.Tensor, got: torch.Tensor, folder: Path) -> dict[str, Any]:
    difference = float((wanted - got).abs().mean())
    tolerance = MEAN_TOLERANCE[run.plan.precision]
    facts: dict[str, Any] = {
        "mean_difference_nats": difference,
        "tolerance_nats": tolerance,
        "tokens_compared": len(wanted),
    }
    if difference <= tolerance:
        run.recorder.event(
            f"The merged model agrees with base and adapter: {difference:.2g} nats per token apart on "
            f"{len(wanted)} held-out tokens (tolerance {tolerance:g}).",
            **facts,
        )
        return facts
    shutil.rmtree(folder)
    raise JobFailure(
        Failure(
            code=ErrorCode.MERGED_MODEL_DIFFERS,
            message=(
                f"The merged model is not published: it differs from base and adapter by {difference:.3g} nats per "
                f"token on {len(wanted)} held-out tokens, {tolerance:g} are tolerated."
            ),
            param="tunesmith.merge",
            category=Category.INTERNAL,
            hint="The adapter itself is complete and among the job's artifacts: use it without merging.",
        )
    )
