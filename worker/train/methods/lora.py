"""LoRA: the base is frozen in the compute dtype, low-rank adapters learn in fp32."""

import json

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from tunesmith.tuning.engine import fuses
from tunesmith.tuning.plan import Lora
from tunesmith.tuning.values.units import gib
from tunesmith.worker.train.adapters.adapter import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    adapter_tensors,
    attach_adapter,
    config_of,
    file_key,
)
from tunesmith.worker.train.adapters.float8_base import hold_in_float8
from tunesmith.worker.train.adapters.fuse import describe as described
from tunesmith.worker.train.adapters.fuse import fuse
from tunesmith.worker.train.adapters.pissa import INITIAL_FILE, as_plain_adapter, start_from_principal_components
from tunesmith.worker.train.checkpoints.state import TrainState, resume_folder
from tunesmith.worker.train.checkpoints.trainable_state import StateFile
from tunesmith.worker.train.export.merge import write_merged_model
from tunesmith.worker.train.export.output import describe, save_adapter
from tunesmith.worker.train.loop import loop
from tunesmith.worker.train.loop.objectives import planned_objective
from tunesmith.worker.train.loop.packing_choice import choose_packing
from tunesmith.worker.train.models.model import Learner, check_vocabulary, enable_checkpointing, load_model
from tunesmith.worker.train.optim.optimizer import MasterOptimizer
from tunesmith.worker.train.optim.zero import ShardedOptimizer, weights_shared_out, with_optimizer
from tunesmith.worker.train.run import RunContext


def train(run: RunContext) -> TrainState:
    """Load the base, put an adapter on it, train it, write it to the run's output, merged too if the job asks."""
    plan, lora = run.plan, _numbers(run)
    with weights_shared_out(plan):
        base = load_model(run.model_folder, plan=plan, device=run.device)
    run.recorder.reached("model_loaded")
    check_vocabulary(base.get_input_embeddings().num_embeddings, run.rows, run.validation_rows)
    model = attach_adapter(
        base,
        lora,
        continue_from=run.adapter_folder,
        seed=plan.seed,
        model_folder=run.model_folder,
        seals=run.request.seals,
    )
    config = config_of(model, base_name=run.request.base_name, revision=run.request.base_revision)
    weights = StateFile(WEIGHTS_FILE, key=file_key, texts={CONFIG_FILE: json.dumps(config, indent=2, sort_keys=True)})
    if lora.init == "pissa" and run.adapter_folder is None:
        initial = start_from_principal_components(model, resume_folder=resume_folder(run))
        weights = weights.with_tensors(INITIAL_FILE, initial)
    if fuses(zero_stage=plan.zero_stage, offload_optimizer=plan.offload_optimizer):
        fused = fuse(model)
        run.recorder.event(described(fused), level="debug", **fused)
        if plan.float8_base:
            hold_in_float8(model, device=run.device, recorder=run.recorder)
    if plan.sharded_base:
        _tell_about_sharing(run, base)
    enable_checkpointing(base, plan.activation_checkpointing)
    bare = Learner(model, attention=run.attention)
    learner, masters = with_optimizer(bare, plan=plan, processes=run.processes)
    run.recorder.reached("adapter_attached")
    choose_packing(run, bare)
    objective = planned_objective(plan)
    progress = loop.train(run, learner, masters=masters, objective=objective, weight_file=weights)
    tensors = _tensors(model, masters)
    if run.is_main:
        _save(run, tensors, config, weights, progress)
        if run.request.spec.merge:
            describe(run, progress=progress, merged=write_merged_model(run, learner))
    return progress


def _tell_about_sharing(run: RunContext, base: PreTrainedModel) -> None:
    from tunesmith.worker.train.models.sharded_base import sharded_base

    shared = sharded_base(base)
    if shared is not None:
        run.recorder.event(
            f"The 4-bit base is shared out: each of {run.processes} processes keeps {gib(shared.share_bytes)} of "
            f"{gib(shared.whole_bytes)}, and {gib(shared.buffer_bytes)} to gather two layers in.",
            share_bytes=shared.share_bytes,
            whole_bytes=shared.whole_bytes,
            buffer_bytes=shared.buffer_bytes,
        )


def _tensors(model: PeftModel, masters: MasterOptimizer | ShardedOptimizer) -> dict[str, torch.Tensor]:
    if isinstance(masters, ShardedOptimizer):
        return {file_key(name): master.cpu() for name, master, _ in masters.gathered()}
    return adapter_tensors(model)


def _save(
    run: RunContext,
    tensors: dict[str, torch.Tensor],
    config: dict[str, object],
    weights: StateFile,
    progress: TrainState,
) -> None:
    if INITIAL_FILE in weights.tensors:
        tensors, config = as_plain_adapter(tensors, weights.tensors[INITIAL_FILE], config)
    save_adapter(run, tensors, config=config, progress=progress)


def _numbers(run: RunContext) -> Lora:
    if run.plan.lora is None:
        raise ValueError("a plan for an adapter names its numbers")
    return run.plan.lora
