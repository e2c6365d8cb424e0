"""Full fine-tuning: every weight learns, with fp32 masters behind 16-bit weights, shared out by ZeRO if planned."""

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.engine import fuses
from tunesmith.worker.train.adapters.fuse import describe as described
from tunesmith.worker.train.adapters.fuse import fuse
from tunesmith.worker.train.checkpoints.state import TrainState
from tunesmith.worker.train.checkpoints.trainable_state import StateFile
from tunesmith.worker.train.export.output import save_gathered_model, save_model
from tunesmith.worker.train.failures import user_error
from tunesmith.worker.train.loop import loop
from tunesmith.worker.train.loop.objectives import planned_objective
from tunesmith.worker.train.loop.packing_choice import choose_packing
from tunesmith.worker.train.models.model import Learner, check_vocabulary, enable_checkpointing, load_model
from tunesmith.worker.train.models.text_part import TextPart
from tunesmith.worker.train.optim.zero import ShardedOptimizer, weights_shared_out, with_optimizer
from tunesmith.worker.train.run import RunContext

MASTERS_FILE = "masters.safetensors"


def train(run: RunContext) -> TrainState:
    """Load the model, train all of it, write it to the run's output.

    Raises:
        JobFailure: `adapter_needs_lora`: an adapter to continue from would be thrown away.
    """
    if run.adapter_folder is not None:
        raise user_error(
            ErrorCode.ADAPTER_NEEDS_LORA,
            "Full fine-tuning cannot continue an adapter: what it has learned would be lost.",
            hint="Use method lora or qlora, or start from the adapter's merged model.",
            param="tunesmith.method",
        )
    with weights_shared_out(run.plan):
        model = load_model(run.model_folder, plan=run.plan, device=run.device)
    run.recorder.reached("model_loaded")
    check_vocabulary(model.get_input_embeddings().num_embeddings, run.rows, run.validation_rows)
    text = TextPart(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(text.has(name))
    if fuses(zero_stage=run.plan.zero_stage, offload_optimizer=run.plan.offload_optimizer):
        fused = fuse(model)
        run.recorder.event(described(fused), level="debug", **fused)
    enable_checkpointing(model, run.plan.activation_checkpointing)
    bare = Learner(model, attention=run.attention)
    learner, masters = with_optimizer(bare, plan=run.plan, processes=run.processes)
    choose_packing(run, bare)
    objective = planned_objective(run.plan)
    progress = loop.train(run, learner, masters=masters, objective=objective, weight_file=StateFile(MASTERS_FILE))
    if isinstance(masters, ShardedOptimizer):
        save_gathered_model(run, model, masters.gathered(), frozen=masters.frozen(), progress=progress)
    elif run.is_main:
        save_model(run, model, progress=progress)
    return progress
