"""LoRA: the base is frozen in the compute dtype, low-rank adapters learn in fp32."""

from worker.train.adapter import CONFIG_FILE, WEIGHTS_FILE, adapter_tensors, attach_adapter, config_text, file_key
from worker.train.checkpoint import Progress
from worker.train.fusing import describe, fuse
from worker.train.loop import WeightFile, fit
from worker.train.model import Learner, check_vocabulary, enable_checkpointing, load_model
from worker.train.objectives import supervised
from worker.train.output import save_adapter
from worker.train.run import Run


def train(run: Run) -> Progress:
    """Load the base, put an adapter on it, train it, write it to the run's output."""
    plan = run.plan
    if plan.lora is None:
        raise ValueError("a plan for an adapter names its numbers")
    base = load_model(run.model_folder, plan=plan, device=run.device)
    check_vocabulary(base, run.rows)
    model = attach_adapter(base, plan.lora, continue_from=run.adapter_folder, seed=plan.seed)
    config = config_text(model, base_name=run.request.spec.model)
    fused = fuse(model)
    enable_checkpointing(base, plan.activation_checkpointing)
    run.recorder.event(describe(fused), level="debug", **fused)
    weights = WeightFile(WEIGHTS_FILE, key=file_key, extra={CONFIG_FILE: config})
    progress = fit(run, Learner(model), objective=supervised(), weight_file=weights)
    save_adapter(run, adapter_tensors(model), config=config, progress=progress)
    return progress
