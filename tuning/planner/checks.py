"""What must be true before planning makes sense."""

import difflib

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import PlanRule, Reason, Refusal
from tunesmith.tuning.recipe import expert_adapters
from tunesmith.tuning.words import Method


def check_hardware(hardware: HardwareProfile) -> None:
    """Refuse facts that no machine can have.

    Raises:
        InvalidRequest: free memory is negative or more than there is, or a processor has no cores.
    """
    for position, gpu in enumerate(hardware.gpus):
        _check_memory(
            gpu.memory_free_bytes, gpu.memory_total_bytes, param=f"hardware.gpus.{position}.memory_free_bytes"
        )
    cpu = hardware.cpu
    _check_memory(cpu.memory_free_bytes, cpu.memory_total_bytes, param="hardware.cpu.memory_free_bytes")
    if cpu.cores < 1:
        raise _absurd("hardware.cpu.cores", f"{cpu.cores} cores cannot train anything.")


def check_targets(spec: JobSpec, shape: ModelShape) -> None:
    """Every module that the job names for an adapter exists in the model.

    Raises:
        InvalidRequest: `no_such_target_modules`, with the names that come near; `experts_cannot_learn`.
    """
    targets = spec.lora.target_modules
    if (found := _expert_obstacle(spec, shape)) is not None:
        param = f"tunesmith.lora.{found.param}"
        raise InvalidRequest(found.text, code=ErrorCode.EXPERTS_CANNOT_LEARN, param=param, hint=found.hint)
    if isinstance(targets, str) or spec.method is Method.FULL:
        return
    known = [linear.name for linear in shape.linears if linear.module]
    wrong = [target for target in targets if not shape.targets((target,))]
    if not wrong and targets:
        return
    near = [name for target in wrong for name in difflib.get_close_matches(target, known, n=2, cutoff=0.5)]
    guess = f"Did you mean {', '.join(dict.fromkeys(near))}? " if near else ""
    raise InvalidRequest(
        f"No linear module of this model is called {', '.join(map(repr, wrong))}." if wrong else "The list is empty.",
        code=ErrorCode.NO_SUCH_TARGET_MODULES,
        param="tunesmith.lora.target_modules",
        hint=f"{guess}This model has {', '.join(known)}.",
    )


def impossible(*, spec: JobSpec, shape: ModelShape, dataset: DatasetFacts) -> Refusal | None:
    """A refusal that no hardware could lift, or None."""
    reasons = []
    if dataset.rows < 1 or dataset.tokens < 1 or dataset.supervised_tokens < 1 or dataset.longest_row_tokens < 1:
        reasons.append(
            Reason(rule=PlanRule.DATA, text="The training file has nothing to learn from: no supervised tokens.")
        )
    if spec.max_seq_length != "auto" and spec.max_seq_length > shape.context_length:
        reasons.append(
            Reason(
                rule=PlanRule.CONTEXT_LENGTH,
                text=f"max_seq_length {spec.max_seq_length:,} is more than the {shape.context_length:,} tokens that "
                f"the model was built for.",
            )
        )
    if (found := _expert_obstacle(spec, shape)) is not None:
        reasons.append(Reason(rule=PlanRule.EXPERTS, text=f"{found.text} {found.hint}"))
    if spec.method is not Method.FULL and not shape.targets(spec.lora.target_modules):
        known = ", ".join(linear.name for linear in shape.linears if linear.module)
        reasons.append(
            Reason(
                rule=PlanRule.TARGETS,
                text=f"No module of this model matches {spec.lora.target_modules}; it has {known}.",
            )
        )
    return Refusal(reasons=tuple(reasons)) if reasons else None


def _expert_obstacle(spec: JobSpec, shape: ModelShape) -> expert_adapters.Obstacle | None:
    if spec.method is Method.FULL:
        return None
    return expert_adapters.obstacle(spec.lora, has_experts=expert_adapters.have_experts(shape))


def _check_memory(free_bytes: int, total_bytes: int, *, param: str) -> None:
    if total_bytes < 1:
        raise _absurd(param, "A device without memory cannot train anything.")
    if free_bytes < 0:
        raise _absurd(param, f"Free memory cannot be negative ({free_bytes:,} bytes).")
    if free_bytes > total_bytes:
        raise _absurd(param, f"More memory is free ({free_bytes:,} bytes) than there is ({total_bytes:,}).")


def _absurd(param: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, code=ErrorCode.INVALID_HARDWARE, param=param, hint="Probe the machine again.")
