"""ZeRO by DeepSpeed: optimizer state, gradients and weights shared out among processes, behind the loop's interface.

Stage 1 shares out masters and moments, stage 2 gradients too, stage 3 also the weights. Only torch's own AdamW runs:
DeepSpeed's would be compiled when it is first used, and the machine may have no compiler.
"""

import contextlib
import importlib.util
import logging
import math
import os
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast

import torch
import torch.distributed
from torch import nn

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.engine import ZERO_BUCKET_ELEMENTS, ZeroSizes, zero_sizes
from tunesmith.tuning.plan import Plan
from tunesmith.tuning.recipe import expert_adapters
from tunesmith.worker.run_directory import TrainRequest
from tunesmith.worker.train.failures import user_error
from tunesmith.worker.train.kernels.loss import Head
from tunesmith.worker.train.models.model import Learner
from tunesmith.worker.train.models.text_part import layers_of
from tunesmith.worker.train.optim.optimizer import MasterOptimizer, build_adamw

MOMENTS = ("exp_avg", "exp_avg_sq")
# For a model of which no more is known than that it will be shared out.
_UNTIL_LOADED = zero_sizes(
    parameters=ZERO_BUCKET_ELEMENTS, trainable=ZERO_BUCKET_ELEMENTS, layer_parameters=ZERO_BUCKET_ELEMENTS // 2,
    embedding_parameters=0, hidden_size=1,
)  # fmt: skip


class Fragment(NamedTuple):
    """The part of one parameter that this process owns: elements `start` to `start + len(master)` of it, flattened.

    `master` is fp32 and a view, as are the `moments`, which AdamW makes at its first step.
    """

    name: str
    start: int
    master: torch.Tensor
    moments: dict[str, torch.Tensor]


def is_sharded(plan: Plan) -> bool:
    """Whether the plan asks for DeepSpeed."""
    return bool(plan.zero_stage) or plan.offload_optimizer


def check_available(request: TrainRequest) -> None:
    """Settle the environment before anything imports DeepSpeed.

    Raises:
        JobFailure: `sharding_not_available`; training without it would need memory that the plan does not count.
    """
    plan = request.plan
    if not is_sharded(plan):
        return
    if importlib.util.find_spec("deepspeed") is None:
        raise user_error(
            ErrorCode.SHARDING_NOT_AVAILABLE,
            f"The plan shards by ZeRO stage {plan.zero_stage}, but the package deepspeed is not installed here.",
            hint="On the worker, after torch: pip install --no-build-isolation 'deepspeed>=0.19,<0.20'. "
            "Or choose method lora or qlora.",
            param="method",
        )
    if plan.precision == "fp16" or plan.optimizer != "adamw":
        raise user_error(
            ErrorCode.SHARDING_NOT_AVAILABLE,
            f"ZeRO runs here in bf16 or fp32 with adamw, not in {plan.precision} with {plan.optimizer}.",
            hint="Use GPUs of compute capability 8.0 or later, or choose method lora.",
            param="method",
        )
    if plan.lora is not None and (plan.lora.use_dora or plan.lora.init == "pissa" or request.spec.merge):
        raise user_error(
            ErrorCode.SHARDING_NOT_AVAILABLE,
            "DoRA, PiSSA and merging need every weight of the base whole, and this plan shares the base out.",
            hint="Leave use_dora, init and merge at their defaults, or use GPUs that hold the base each.",
            param="tunesmith.lora",
        )
    found = None if plan.lora is None else expert_adapters.shared_out(plan.lora.target_modules)
    if found is not None:
        param = f"tunesmith.lora.{found.param}"
        raise user_error(ErrorCode.SHARDING_NOT_AVAILABLE, found.text, hint=found.hint, param=param)
    settle_environment(plan.device)


def settle_environment(device: str) -> None:
    """What DeepSpeed would read of its environment while it starts; nothing of it is compiled."""
    os.environ.setdefault("DS_ACCELERATOR", device)
    import deepspeed.ops

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # DeepSpeed's calls
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would be compiled at the start on a CPU


def whole_size(parameter: torch.Tensor) -> int:
    """Elements of a parameter, also of one that is shared out."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


@contextlib.contextmanager
def weights_shared_out(plan: Plan) -> Iterator[None]:
    """Under stage 3 a model that is loaded inside never exists whole: each process keeps its part of every weight."""
    if plan.zero_stage != 3:
        yield
        return
    from transformers.integrations import HfDeepSpeedConfig
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    seen_by_from_pretrained = HfDeepSpeedConfig(_config(plan, _UNTIL_LOADED))
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del seen_by_from_pretrained


def with_optimizer(
    learner: Learner, *, plan: Plan, processes: int
) -> "tuple[Learner, MasterOptimizer | ShardedOptimizer]":
    """The learner as it must be called from now on, and what owns its masters, gradients and moments."""
    if not is_sharded(plan):
        return learner, MasterOptimizer(learner.trainable(), plan=plan, processes=processes)
    optimizer = ShardedOptimizer(learner, plan=plan)
    return cast("Learner", optimizer.engine), optimizer


class ShardedOptimizer:
    """`MasterOptimizer` with every process owning a part. All methods but `fragments` must be called in all at once."""

    lockstep = True  # every process runs as many passes as every other: weights and gradients move in each

    def __init__(self, learner: Learner, *, plan: Plan) -> None:
        _start_alone_if_needed(plan)
        import deepspeed

        learner.projection = Projection(learner)
        self._trainable = dict(learner.trainable())
        self._frozen = {name: value for name, value in learner.model.named_parameters() if not value.requires_grad}
        self._processes = torch.distributed.get_world_size()
        config = _config(plan, sizes_of(learner))
        optimizer = build_adamw(self._trainable.values(), plan=plan)
        self.engine, *_ = deepspeed.initialize(model=learner, optimizer=optimizer, config=config)
        self._zero = self.engine.optimizer
        self._stage = plan.zero_stage

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Add this pass's gradient; `last` completes the sum over passes and processes."""
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss * self._processes)  # DeepSpeed takes a mean over processes, the loss is a sum

    def clip(self, max_norm: float) -> torch.Tensor:
        """Global norm of the complete gradient, fp32 scalar; `step` scales by it, with the plan's `max_norm`."""
        if max_norm != self.engine.gradient_clipping():
            raise ValueError("the norm to clip to is part of the plan")
        norm = torch.as_tensor(_global_norm(self._zero))
        return torch.where(norm < 0, math.inf, norm)  # DeepSpeed's way to say: not a finite number

    def gradients(self) -> list[torch.Tensor]:
        """None to be scaled: there is no fp16 here, and so no loss scale."""
        return []

    def sum_over_processes(self) -> None:
        """`backward` has done it."""

    def clear(self) -> None:
        """Nothing: a step that fails is not tried again, for the others would wait in the middle of it."""

    def step(self, *, learning_rate: float) -> None:
        """One clipped update of every part, and of the weights from it."""
        for group in self._zero.optimizer.param_groups:
            group["lr"] = learning_rate
        self.engine.step()

    def elements_without_moments(self) -> int:
        """How many elements of this process's share the first step will make moments for on its device."""
        is_settled = self.updates() or self.engine.zero_offload_optimizer()
        return 0 if is_settled else sum(flat.numel() for flat in self._flats())

    def fragments(self) -> list[Fragment]:
        """What this process owns, in the model's order."""
        state = self._zero.optimizer.state
        return [
            Fragment(
                name,
                start,
                flat.detach()[place : place + length],
                {key: state[flat][key][place : place + length] for key in MOMENTS if key in state.get(flat, {})},
            )
            for name, parameter in self._trainable.items()
            for start, flat, place, length in [self._place_of(parameter)]
            if length
        ]

    def shapes(self) -> dict[str, torch.Size]:
        """Whole shape of every trainable parameter."""
        return {name: getattr(value, "ds_shape", value.shape) for name, value in self._trainable.items()}

    def updates(self) -> int:
        """AdamW's own count of steps: what its bias correction follows."""
        state = self._zero.optimizer.state
        return next((int(state[flat]["step"]) for flat in self._flats() if "step" in state.get(flat, {})), 0)

    @torch.no_grad()
    def restore_moments(self, updates: int) -> None:
        """Make room for the moments, as after `updates` steps; `fragments` then has them, to be filled."""
        for flat in self._flats():
            counted = torch.tensor(float(updates), device=flat.device)
            self._zero.optimizer.state[flat] = {"step": counted, **{key: torch.zeros_like(flat) for key in MOMENTS}}

    @torch.no_grad()
    def refresh_mirrors(self) -> None:
        """Round the masters into the model."""
        if self._stage < 3:
            self._zero.update_lp_params()
            return
        # As in DeepSpeed's own step: a weight that is still whole from the last pass would stay as it was.
        self._settle()
        for index in range(len(self._zero.fp16_groups)):
            self._zero._reassign_or_swap_out_partitioned_parameters(index)  # noqa: SLF001
        if self._zero.persistent_parameters:
            self._zero.persistent_parameters[0].all_gather(self._zero.persistent_parameters)

    @torch.no_grad()
    def gathered(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Name, whole fp32 master and whole live weight of every parameter, one after another."""
        import deepspeed
        from deepspeed.utils import safe_get_full_fp32_param

        self._settle()
        for name, parameter in self._trainable.items():
            with deepspeed.zero.GatheredParameters([parameter], enabled=self._stage == 3):
                yield name, safe_get_full_fp32_param(parameter), parameter.detach()

    @torch.no_grad()
    def frozen(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and whole weight of every parameter that does not learn, one after another."""
        import deepspeed

        self._settle()
        for name, parameter in self._frozen.items():
            with deepspeed.zero.GatheredParameters([parameter], enabled=self._stage == 3):
                yield name, parameter.detach()

    def _settle(self) -> None:
        """End what an evaluation's last pass has asked for ahead, and leave each weight with its owners."""
        if self._stage == 3:
            self._zero._partition_all_parameters()  # noqa: SLF001

    def _flats(self) -> list[torch.Tensor]:
        for name in ("fp32_partitioned_groups_flat", "fp32_groups_flat_partition", "single_partition_of_fp32_groups"):
            if hasattr(self._zero, name):
                return list(getattr(self._zero, name))
        raise TypeError(f"{type(self._zero).__name__} is not an optimizer of a DeepSpeed that is known here")

    def _place_of(self, parameter: Any) -> tuple[int, torch.Tensor, int, int]:
        """Start in the parameter, flat buffer, start in the buffer, and length; length 0 if nothing is owned."""
        flats = self._flats()
        if self._stage == 3:
            group, place, _ = self._zero.grad_position[self._zero.get_param_id(parameter)]
            start = parameter.partition_numel() * torch.distributed.get_rank()
            length = max(0, min(parameter.partition_numel(), parameter.ds_numel - start))
            return start, flats[group], place, length
        mapping = parameter._hp_mapping  # noqa: SLF001 - DeepSpeed's own mark on each parameter
        if mapping is None:
            return 0, flats[0], 0, 0
        place, weight = mapping.hp_fragment_address, mapping.lp_fragment_address
        return weight.start, flats[mapping.param_group_index], place.start, place.numel


class Projection(nn.Module):
    """The output head as a module: DeepSpeed gathers a weight that is shared out for the module that calls for it."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.weight, self.bias, self._softcap = learner.head

    def forward(self, loss_function: Any, hidden: torch.Tensor, labels: torch.Tensor) -> Any:
        """What `loss_function` makes of hidden states and labels, with the whole weight at hand, backwards too."""
        return loss_function(hidden, labels, Head(self.weight, self.bias, self._softcap))


def sizes_of(learner: Learner) -> ZeroSizes:
    """The planner's sizes for the model that was loaded."""
    model = learner.causal_model
    return zero_sizes(
        parameters=_elements(learner.parameters()),
        trainable=_elements(value for value in learner.parameters() if value.requires_grad),
        layer_parameters=max(_elements(layer.parameters()) for layer in layers_of(model)),
        embedding_parameters=whole_size(learner.head.weight),
        hidden_size=model.config.get_text_config().hidden_size,
    )


def _elements(parameters: Iterable[torch.Tensor]) -> int:
    return sum(map(whole_size, parameters))


def _config(plan: Plan, sizes: ZeroSizes) -> dict[str, Any]:
    zero: dict[str, Any] = {
        "stage": plan.zero_stage,
        "contiguous_gradients": True,
        "overlap_comm": plan.device == "cuda",
        "reduce_bucket_size": sizes.reduced,
        "allgather_bucket_size": sizes.gathered,
    }
    if plan.zero_stage == 3:
        zero |= {
            "sub_group_size": sizes.gathered,  # elements that one part of the update copies
            "stage3_prefetch_bucket_size": sizes.prefetched,
            "stage3_max_live_parameters": sizes.live,
            "stage3_max_reuse_distance": sizes.live,
            "stage3_param_persistence_threshold": sizes.persistent,
        }
    if plan.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": plan.device == "cuda"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": plan.max_gradient_norm,
        "bf16": {"enabled": plan.precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
    }


def _global_norm(optimizer: Any) -> Any:
    """As the optimizer computes it in its step; each of DeepSpeed's three has a way of its own."""
    from deepspeed.runtime.utils import combine_grad_norm_groups, get_global_norm_of_tensors

    if hasattr(optimizer, "_get_norm_groups"):
        return combine_grad_norm_groups(optimizer._get_norm_groups())  # noqa: SLF001
    if hasattr(optimizer, "get_grads_for_norm"):
        return get_global_norm_of_tensors(optimizer.get_grads_for_norm()[0], mpu=None)
    return optimizer.scaled_global_norm()


def _start_alone_if_needed(plan: Plan) -> None:
    """DeepSpeed wants a process group also where one process offloads its optimizer."""
    if not torch.distributed.is_initialized():
        backend = "nccl" if plan.device == "cuda" else "gloo"
        alone = cast("Any", torch.distributed).HashStore()
        torch.distributed.init_process_group(backend, store=alone, rank=0, world_size=1)
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed looks for it
