"""What a run is held against: the operations each step needs, and the rate of the devices that it runs on."""

import numpy as np
import torch

from tunesmith.tuning.estimates.utilization import StepWork, data_sheet_flops_per_second, flop_rates, training_flops
from tunesmith.tuning.hardware import Gpu
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Lora
from tunesmith.tuning.words import Method
from tunesmith.worker.train.data.rows import Rows
from tunesmith.worker.train.loop.step_metrics import StepSums
from tunesmith.worker.train.models.model import DTYPES, Learner
from tunesmith.worker.train.optim.zero import whole_size
from tunesmith.worker.train.profiling.rates import matmul_flops_per_second
from tunesmith.worker.train.run import RunContext

MEASURING_SECONDS = 0.1
_measured: dict[torch.dtype, float] = {}  # one process measures once, however many runs it is asked for


class Utilization:
    """Model FLOPs utilisation of one run, step by step and on the whole."""

    def __init__(self, run: RunContext, learner: Learner) -> None:
        self._shape = run.shape
        is_full = run.plan.method is Method.FULL
        self._adapter_parameters = None if is_full else _used_by_a_token(learner, run.plan.lora, self._shape)
        self._squared_lengths = run.rows.squared_lengths()
        per_device, source = _device_rate(run)
        self._rate = per_device * run.processes
        self._flops, self._seconds = 0.0, 0.0
        run.recorder.event(
            f"MFU is the share of {self._rate / 1e12:.3g} TFLOP/s, {source}.",
            flops_per_second=self._rate,
            processes=run.processes,
        )

    def work_of(self, rows: Rows) -> np.ndarray:
        """Operations that each row needs, fp64 [rows]."""
        rates = flop_rates(self._shape, adapter_parameters=self._adapter_parameters)
        amounts = (rows.lengths(), rows.supervised_counts(), rows.squared_lengths())
        return np.sum([rate * amount.astype(np.float64) for rate, amount in zip(rates, amounts, strict=True)], axis=0)

    def of_step(self, sums: StepSums, *, tokens_per_second: float) -> float:
        """The share of all devices' rate that a step reached."""
        work = StepWork(sums.tokens, sums.supervised_tokens, int(self._squared_lengths[sums.rows].sum()))
        flops = training_flops(self._shape, work, adapter_parameters=self._adapter_parameters)
        seconds = sums.tokens / tokens_per_second
        self._flops += flops
        self._seconds += seconds
        return flops / seconds / self._rate

    def mean(self) -> float | None:
        """Over all steps of this process; None before the first."""
        return self._flops / self._seconds / self._rate if self._flops else None


def _used_by_a_token(learner: Learner, lora: Lora | None, shape: ModelShape) -> int:
    """Adapter parameters without those on experts that a token is not sent to."""
    sleeping = 0
    if lora is not None:
        sleeping = shape.sleeping_adapter_parameters(rank=lora.rank, targets=lora.target_modules)
    return sum(whole_size(value) for _, value in learner.trainable()) - sleeping


def _device_rate(run: RunContext) -> tuple[float, str]:
    """The data sheet's dense rate for 16-bit work on a known GPU; elsewhere what matrix products measure now."""
    dtype = DTYPES[run.plan.precision]
    if run.device.type == "cuda" and dtype is not torch.float32:
        known = data_sheet_flops_per_second(_gpu(run.device))
        if known is not None:
            return known, "the dense 16-bit rate on the data sheet of this GPU"
    if run.device.type == "cpu" and dtype is torch.float16:
        dtype = torch.float32  # no processor multiplies fp16 at a speed worth measuring: four products took 20 s
    own = run.request.constants
    if own is not None and run.device.type == "cpu" and own.threads == torch.get_num_threads():
        rate = own.matmul_fp32_flops_per_second if dtype is torch.float32 else own.matmul_16bit_flops_per_second
        return rate, f"what {_name(dtype)} matrix products reach on this worker (measured)"
    if dtype not in _measured:
        _measured[dtype] = matmul_flops_per_second(dtype, device=run.device, seconds=MEASURING_SECONDS)
    return _measured[dtype], f"what {_name(dtype)} matrix products reach here (measured)"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _gpu(device: torch.device) -> Gpu:
    properties = torch.cuda.get_device_properties(device)
    return Gpu(
        index=device.index or 0,
        name=properties.name,
        memory_total_bytes=properties.total_memory,
        memory_free_bytes=0,
        compute_capability=(properties.major, properties.minor),
    )
