"""QLoRA (arXiv 2305.14314): as LoRA, over a base held in 4-bit NF4 and dequantised as it is used.

Embeddings, norms and head keep the compute dtype. Upcasting them to fp32, as is common, would cost 2 GB on an 8B
model and gain nothing here: the head multiplies in the compute dtype and the loss is computed in fp32 anyway.
"""

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.recipe import expert_adapters
from tunesmith.worker.train.checkpoints.state import TrainState
from tunesmith.worker.train.failures import user_error
from tunesmith.worker.train.methods import lora
from tunesmith.worker.train.run import RunContext


def train(run: RunContext) -> TrainState:
    """The plan's `quantization` makes the loader quantise; everything after that is LoRA.

    Raises:
        JobFailure: `sharding_not_available` where a part of the job needs each weight of a base that is shared out.
    """
    if run.plan.quantization is None:
        raise ValueError("a plan for QLoRA names its quantisation")
    if run.plan.sharded_base:
        _check_sharding(run)
    return lora.train(run)


def _check_sharding(run: RunContext) -> None:
    """Merging writes the whole base, and a magnitude of DoRA starts as the length of a whole row."""
    found = None if run.plan.lora is None else expert_adapters.shared_out(run.plan.lora.target_modules)
    if found is not None:
        param = f"tunesmith.lora.{found.param}"
        raise user_error(ErrorCode.SHARDING_NOT_AVAILABLE, found.text, hint=found.hint, param=param)
    needs_whole_base = run.request.spec.merge or (run.plan.lora is not None and run.plan.lora.use_dora)
    if needs_whole_base or run.processes == 1:
        raise user_error(
            ErrorCode.SHARDING_NOT_AVAILABLE,
            "This plan shares the 4-bit base out over several processes, and DoRA and merging need it whole."
            if needs_whole_base
            else "This plan shares the 4-bit base out over several processes, and there is one.",
            hint="Leave use_dora and merge at their defaults, or use GPUs that hold the base each.",
            param="tunesmith.lora",
        )
