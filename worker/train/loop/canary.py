"""The canary: one real micro-step, the largest of the run, before training; what it measures stands beside the plan.

A job that does not fit learns it in its first seconds and not at step 900, and one that is slower than predicted says
so before the wait begins. Weights, optimizer and random numbers are as before when it ends.
"""

import time
from collections.abc import Iterator
from itertools import chain, islice

import numpy as np
import torch

from tunesmith.tuning.estimates.measured import visible_peak_bytes
from tunesmith.tuning.messages import CanaryReport
from tunesmith.tuning.plan import Plan, TimeEstimate
from tunesmith.tuning.planner.rehearsal import assess
from tunesmith.tuning.state import Phase
from tunesmith.tuning.values.units import duration, gib
from tunesmith.worker.run_directory import write_atomically
from tunesmith.worker.train.checkpoints import state as checkpoints
from tunesmith.worker.train.data.order import epoch_order
from tunesmith.worker.train.data.packing import pack
from tunesmith.worker.train.data.sharing import Sharing
from tunesmith.worker.train.loop.start import Start
from tunesmith.worker.train.profiling.neighbours import Neighbours
from tunesmith.worker.train.recorder import peak_memory_bytes
from tunesmith.worker.train.run import RunContext

# Laying out every step of a large file takes minutes: of an epoch those with most tokens, and so many in all.
STEPS_OF_EPOCH, STEPS_SEARCHED = 64, 512
FULL_ENOUGH = 0.98  # of the token budget: no later epoch can do better
# The first pass on a GPU chooses kernels and grows the allocator's pools; on a CPU a pass costs seconds.
PASSES = {"cuda": 2, "cpu": 1}
# AdamW keeps two moments of every trained parameter, fp32 or 8-bit, from the first optimizer step on.
MOMENT_BYTES = {"adamw": 8, "adamw_8bit": 2}
SURPRISE = 1.25  # measured over predicted memory that a person should look at


def run_canary(start: Start, sharing: Sharing) -> None:
    """Measure one micro-step, unless the checkpoint or an equal run on this worker has tried these settings.

    `sharing` is how this process goes through the training rows. What is found goes to `canary.json`, with an event.

    Raises:
        JobFailure: `out_of_memory`, when nothing that could be given up makes even the smallest micro-step fit.
    """
    settings = _settings(start.run.plan)
    if start.progress.canary_of == settings or is_spared(start, sharing):
        return
    start.run.recorder.phase(Phase.CANARY)
    report = _measured(start, sharing)
    if start.run.is_main:
        write_atomically(start.run.directory.canary, report.model_dump_json(indent=2))
    _tell(start.run, report)
    start.progress.canary_of = settings


def is_spared(start: Start, sharing: Sharing) -> bool:
    """Whether an equal run on this worker has answered what the canary would ask; if so, an event says how."""
    run, earlier = start.run, start.run.request.rehearsal
    if earlier is None:
        return False
    lengths, rows = run.rows.lengths(), _largest(start, sharing)
    tokens, longest = int(lengths[rows].sum()), int(lengths[rows].max())
    judgement = assess(earlier, run.plan, tokens=tokens, longest_row_tokens=longest)
    if judgement.stands:
        run.recorder.event(f"No canary step: {judgement.reason}.", tokens=tokens, earlier=earlier.model_dump())
    return judgement.stands


def largest_micro_step(sharing: Sharing, plan: Plan, *, token_budget: int, total_steps: int) -> list[int]:
    """Rows of the micro-step with most tokens that any process will see; of equals, that with the longest row.

    Of a run with more than `STEPS_SEARCHED` steps it is the largest among those that are likely to have it.
    """
    lengths = sharing.lengths
    best: list[int] = []
    most = max(token_budget * FULL_ENOUGH, int(lengths.max())) if sharing.together else int(lengths.max())
    best_size = (0, 0)
    for chosen in islice(_heaviest_steps(lengths, plan, total_steps=total_steps), STEPS_SEARCHED):
        for rows in chain.from_iterable(sharing.micro_steps(chosen, token_budget=token_budget)):
            size = (int(lengths[rows].sum()), int(lengths[rows].max()))
            if size > best_size:
                best, best_size = rows, size
        if best_size[0] >= most:
            break
    return best


def _heaviest_steps(lengths: np.ndarray, plan: Plan, *, total_steps: int) -> Iterator[list[int]]:
    """The rows of optimizer steps, epoch by epoch, those with the longest row of all or most tokens first."""
    per_step, left = plan.rows_per_step, total_steps
    starts = np.arange(0, len(lengths), per_step)
    for epoch in range(plan.epochs):
        order = epoch_order(len(lengths), seed=plan.seed, epoch=epoch)
        tokens = np.add.reduceat(lengths[order], starts)[:left]
        longest = np.maximum.reduceat(lengths[order], starts)[:left]
        heaviest = np.argsort(-tokens, kind="stable")[:STEPS_OF_EPOCH]
        for step in (int(longest.argmax()), *heaviest.tolist()):
            yield order[step * per_step : (step + 1) * per_step].tolist()
        left -= len(tokens)
        if left <= 0:
            return


def _settings(plan: Plan) -> str:
    """The launch settings that a canary tries; one that was done with others says nothing about these."""
    return f"{plan.world_size} x {plan.device} {plan.precision} {plan.kernels} {plan.tokens_per_micro_step}"


def _largest(start: Start, sharing: Sharing) -> list[int]:
    """Rows of the run's largest micro-step at the token budget that it has come down to."""
    budget = start.progress.token_budget
    return largest_micro_step(sharing, start.run.plan, token_budget=budget, total_steps=start.total_steps)


def _measured(start: Start, sharing: Sharing) -> CanaryReport:
    run = start.run
    reserved = _reserve_moments(start)
    state = checkpoints.random_state()

    def undo() -> None:
        start.masters.clear()
        checkpoints.restore_random_state(state)

    def largest_and_its_seconds() -> tuple[list[int], float]:
        rows = _largest(start, sharing)
        seconds = [_time_micro_step(start, rows) for _ in range(PASSES[run.device.type])]
        return rows, seconds[-1]

    doing = "at the canary step before training"
    neighbours = Neighbours(run)
    rows, seconds = start.ladder.descend_until_it_fits(
        largest_and_its_seconds, doing=doing, has_backward=True, undo=undo
    )
    others_share = neighbours.share()
    undo()
    missing = _moment_bytes(start) if reserved is None else 0
    peak = peak_memory_bytes(run.device) + missing
    del reserved
    lengths = run.rows.lengths()[rows]
    return _report(start, lengths, seconds=seconds, peak_memory_bytes=peak, others_share=others_share)


def _time_micro_step(start: Start, rows: list[int]) -> float:
    """Seconds of forward and backward over rows as one micro-step; the masters' gradients are to be cleared.

    Where they are shared out they cannot be, and so add nothing.
    """
    run, objective = start.run, start.objective
    scale = 0.0 if start.masters.lockstep else start.progress.loss_scale
    began = time.perf_counter()
    batch = pack(rows, run.rows, device=run.device)
    loss = objective.sums(start.learner, batch).loss
    start.masters.backward(loss * (scale / max(1, objective.units(batch))), last=False)
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
    return time.perf_counter() - began


def _reserve_moments(start: Start) -> torch.Tensor | None:
    """Hold the memory that the optimizer will take after its first step, so that the canary meets the real peak."""
    if start.run.device.type == "cpu":
        return None  # untouched memory is not resident; its bytes are added to what was measured
    return torch.empty(_moment_bytes(start), dtype=torch.uint8, device=start.run.device)


def _moment_bytes(start: Start) -> int:
    """Optimizer state that does not exist yet."""
    return start.masters.elements_without_moments() * MOMENT_BYTES[start.run.plan.optimizer]


def _report(
    start: Start, lengths: np.ndarray, *, seconds: float, peak_memory_bytes: int, others_share: float | None
) -> CanaryReport:
    plan, progress = start.run.plan, start.progress
    tokens = int(lengths.sum())
    speed = tokens / max(seconds, 1e-9)
    predicted_peak = visible_peak_bytes(plan.memory, device=plan.device)
    predicted_speed = plan.time.micro_step_tokens_per_second
    speed_ratio = speed / predicted_speed if predicted_speed else None
    share_of_steps = start.total_steps / max(1, plan.total_steps)
    return CanaryReport(
        tokens=tokens,
        longest_row_tokens=int(lengths.max()),
        tokens_per_micro_step=max(1, progress.token_budget // start.run.rows.sequences_per_row),
        seconds=max(seconds, 1e-9),
        tokens_per_second=speed,
        predicted_tokens_per_second=predicted_speed,
        speed_ratio=speed_ratio,
        peak_memory_bytes=peak_memory_bytes,
        predicted_peak_bytes=predicted_peak if plan.memory.items else None,
        memory_ratio=peak_memory_bytes / predicted_peak if plan.memory.items else None,
        expected_seconds=_expected_seconds(plan.time, speed_ratio) * share_of_steps if speed_ratio else None,
        others_share=others_share,
    )


def _expected_seconds(planned: TimeEstimate, speed_ratio: float) -> float:
    """At the measured speed; answers are given for a bounded time at any."""
    return (planned.training_seconds + planned.evaluation_seconds) / speed_ratio + planned.sample_seconds


def _tell(run: RunContext, report: CanaryReport) -> None:
    """One event; the worker shows `expected_seconds` as what is left until the first step is done."""
    memory = f"{gib(report.peak_memory_bytes)} at the peak"
    if report.predicted_peak_bytes:
        memory += f" (predicted {gib(report.predicted_peak_bytes)})"
    speed = f"{report.tokens_per_second:,.0f} tokens/s"
    if report.predicted_tokens_per_second:
        speed += f" (predicted {report.predicted_tokens_per_second:,.0f})"
    expected = report.expected_seconds
    left = f" Training takes about {duration(expected)} at this speed." if expected else ""
    is_slow = expected is not None and expected > run.plan.time.seconds_high
    is_large = report.memory_ratio is not None and report.memory_ratio > SURPRISE
    run.recorder.event(
        f"Canary step of {report.tokens} tokens, the largest of the run: {memory}, {speed}.{left}",
        level="warn" if is_slow or is_large else "info",
        **report.model_dump(exclude_none=True),
    )
