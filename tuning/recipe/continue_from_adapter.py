"""A job that goes on from an adapter: its method must keep it, and its numbers are those the adapter already has."""

import math

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.job import JobSpec
from tunesmith.tuning.plan import Lora
from tunesmith.tuning.words import Method

_FIXED = ("rank", "alpha", "target_modules", "use_rslora", "use_dora")


def continued(spec: JobSpec, adapter: Lora | None) -> JobSpec:
    """The same job with the adapter's own numbers where they were left open. `adapter` is None where none are known.

    Raises:
        InvalidRequest: `adapter_needs_lora`, or `adapter_shape_is_fixed` when the job asks for another one.
    """
    if spec.method is Method.FULL:
        raise InvalidRequest(
            f"{spec.model!r} is an adapter; full fine-tuning would throw away what it has learned.",
            code=ErrorCode.ADAPTER_NEEDS_LORA,
            param="tunesmith.method",
            hint="Use method 'lora', 'qlora' or 'auto', or start from a merged model.",
        )
    spec = spec.model_copy(update={"continues_adapter": True})
    if adapter is None:
        return spec
    has = as_written(adapter)
    for name in sorted(spec.lora.model_fields_set & set(_FIXED)):
        asked = getattr(spec.lora, name)
        if asked not in ("auto", getattr(has, name)):
            raise InvalidRequest(
                f"The adapter {spec.model!r} has {name} {getattr(has, name)}; a job that continues it cannot change "
                f"that to {asked}.",
                code=ErrorCode.ADAPTER_SHAPE_IS_FIXED,
                param=f"tunesmith.lora.{name}",
                hint=f"Leave {name} out, or start a new adapter from the base model.",
            )
    taken = {name: getattr(has, name) for name in _FIXED} | {"init": "default"}
    return spec.model_copy(update={"lora": spec.lora.model_copy(update=taken)})


def as_written(adapter: Lora) -> Lora:
    """The numbers that the adapter's file has: PiSSA's is written as a plain one of twice the rank."""
    if adapter.init != "pissa":
        return adapter
    growth = math.sqrt(2) if adapter.use_rslora else 2.0
    return adapter.model_copy(update={"rank": 2 * adapter.rank, "alpha": adapter.alpha * growth, "init": "default"})
