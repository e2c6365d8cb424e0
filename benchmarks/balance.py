"""`python -m benchmarks.balance`: how evenly the trainer shares out the rows of a step among GPUs, simulated.

The rows are lognormal (sigma 1, cut at the longest), the launch numbers are the planner's own for Llama 3.1 8B under
LoRA on H100s, and who gets which rows is decided by the trainer's own functions. A step lasts as long as the GPU that
has most to do, by floating-point operations; efficiency is the work of 60 steps over what all GPUs could have done in
that time. `dealt out` is the way before: all rows of the step packed into as few micro-steps as they need, then whole
micro-steps dealt out, the one with most tokens first to the GPU with fewest. `bound` is what no way that leaves rows
whole can exceed: a step cannot be shorter than its heaviest row. `lockstep` holds the GPUs together at every
micro-step, as ZeRO stage 3 does; `planner` is what the plan's tokens/s expect. Nothing is downloaded, no GPU is used.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tunesmith.tuning.datasets.balance import expected_evenness, share_out
from tunesmith.tuning.datasets.lengths import BUCKETS, bucket_of, typical_lengths
from tunesmith.tuning.estimates.utilization import flop_rates
from tunesmith.tuning.hardware_facts.gpus import what_if
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.models.catalogue import find_shape
from tunesmith.tuning.plan import Plan
from tunesmith.tuning.planner.choose import choose
from tunesmith.worker.train.data.order import RowOrder
from tunesmith.worker.train.data.packing import plan_micro_steps
from tunesmith.worker.train.data.rows import Rows
from tunesmith.worker.train.data.sharing import Sharing

MODEL, SIGMA, STEPS = "llama-3.1-8b", 1.0, 60
DATA_SETS = (
    (2_000, 307, 4_096),
    (5_000, 149, 2_048),
    (20_000, 299, 4_096),
    (20_000, 596, 4_096),
    (20_000, 1_476, 8_192),
)


class Simulated(NamedTuple):
    """Efficiencies from 0 to 1."""

    dealt_out: float
    by_tokens: float
    by_work: float
    bound: float
    lockstep: float


def main() -> None:
    """One line for each data set and number of GPUs."""
    print(
        "| rows, mean, longest | GPUs | rows a step | dealt out | by tokens | by work | lockstep | planner | tokens/s |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for gpus in (8, 4):
        for rows, mean, longest in DATA_SETS:
            lengths = lognormal_lengths(rows, mean=mean, longest=longest)
            plan = plan_for(lengths, gpus=gpus)
            figures = [f"{value:.2f}" for value in (*simulate(lengths, plan), expected(lengths, plan))]
            cells = (f"{rows:,}, {mean:,}, {longest:,}", gpus, plan.rows_per_step, *figures)
            print(f"| {' | '.join(map(str, cells))} | {plan.time.tokens_per_second:,.0f} |")


def lognormal_lengths(rows: int, *, mean: int, longest: int) -> np.ndarray:
    """Tokens of each row, of this mean after they were cut: int64 [rows]."""
    normal = np.random.default_rng(0).standard_normal(rows)
    low, high = 0.0, 12.0
    for _ in range(50):  # bisection: the mean grows with the middle
        middle = (low + high) / 2
        lengths = np.clip(np.exp(middle + SIGMA * normal).astype(np.int64), 16, longest)
        low, high = (middle, high) if lengths.mean() < mean else (low, middle)
    lengths[0] = longest
    return lengths


def plan_for(lengths: np.ndarray, *, gpus: int) -> Plan:
    """The planner's own."""
    facts = _facts(lengths)
    spec = JobSpec(model=MODEL, method="lora", seed=0)
    plan = choose(spec=spec, shape=find_shape(MODEL), dataset=facts, hardware=what_if(f"{gpus}xH100"))
    assert isinstance(plan, Plan), plan
    assert plan.world_size == gpus
    return plan


def simulate(lengths: np.ndarray, plan: Plan) -> Simulated:
    """Efficiencies over the first steps of a run under the plan."""
    rows = rows_of(lengths)
    work = _work(lengths)
    order = RowOrder(len(lengths), rows_per_step=plan.rows_per_step, seed=plan.seed)
    steps = [order.of_step(step) for step in range(1, STEPS + 1)]
    by_tokens, by_work = (
        [
            Sharing(rows, work=measure, processes=plan.world_size).micro_steps(
                chosen, token_budget=plan.tokens_per_micro_step
            )
            for chosen in steps
        ]
        for measure in (lengths.astype(np.float64), work)
    )
    dealt_out = [_dealt_out(chosen, lengths, plan) for chosen in steps]
    return Simulated(
        *(_efficiency(layouts, work) for layouts in (dealt_out, by_tokens, by_work)),
        bound=_bound(steps, work, plan),
        lockstep=_efficiency_in_lockstep(by_work, work),
    )


def expected(lengths: np.ndarray, plan: Plan) -> float:
    """What the planner expects, from the counts of lengths that it is given."""
    facts = _facts(lengths)
    mean, longest = facts.tokens / facts.rows, facts.longest_row_tokens
    rates = flop_rates(find_shape(MODEL), adapter_parameters=0)
    return expected_evenness(
        typical_lengths(facts.row_length_counts, mean_tokens=mean, longest_tokens=longest, rows=facts.rows),
        squared_share=rates.squared_token / (rates.token + rates.supervised_token / 2),
        rows_per_step=plan.rows_per_step,
        processes=plan.world_size,
    )


def rows_of(lengths: np.ndarray) -> Rows:
    """Rows of so many tokens each, of which nothing but the lengths is known."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Rows(
        tokens=np.zeros(offsets[-1], dtype=np.int32),
        supervised=np.zeros(offsets[-1], dtype=bool),
        offsets=offsets,
        line_numbers=np.arange(1, len(lengths) + 1),
    )


def _facts(lengths: np.ndarray) -> DatasetFacts:
    return DatasetFacts(
        rows=len(lengths),
        tokens=int(lengths.sum()),
        longest_row_tokens=int(lengths.max()),
        supervised_tokens=int(lengths.sum()) // 2,
        tokens_are_exact=True,
        row_length_counts=tuple(np.bincount([bucket_of(int(n)) for n in lengths], minlength=BUCKETS).tolist()),
    )


def _dealt_out(chosen: Sequence[int], lengths: np.ndarray, plan: Plan) -> list[list[list[int]]]:
    micro_steps = plan_micro_steps(chosen, lengths, token_budget=plan.tokens_per_micro_step)
    tokens = [float(lengths[rows].sum()) for rows in micro_steps]
    return [[micro_steps[index] for index in share] for share in share_out(tokens, processes=plan.world_size)]


def _efficiency(layouts: list[list[list[list[int]]]], work: np.ndarray) -> float:
    """`layouts` holds rows by step, process and micro-step."""
    loads = np.array([[sum(work[rows].sum() for rows in own) for own in everyones] for everyones in layouts])
    return float(loads.mean(axis=1).sum() / loads.max(axis=1).sum())


def _bound(steps: list[list[int]], work: np.ndarray, plan: Plan) -> float:
    means = np.array([work[chosen].sum() / plan.world_size for chosen in steps])
    return float(means.sum() / np.maximum(means, [work[chosen].max() for chosen in steps]).sum())


def _efficiency_in_lockstep(layouts: list[list[list[list[int]]]], work: np.ndarray) -> float:
    done, lasted = 0.0, 0.0
    for everyones in layouts:
        loads = np.zeros((len(everyones), max(map(len, everyones))))
        for process, own in enumerate(everyones):
            loads[process, : len(own)] = [work[rows].sum() for rows in own]
        done += loads.sum() / len(everyones)
        lasted += loads.max(axis=0).sum()
    return done / lasted


def _work(lengths: np.ndarray) -> np.ndarray:
    """Operations of each row, half of whose tokens are supervised."""
    rates = flop_rates(find_shape(MODEL), adapter_parameters=0)
    return (rates.token + rates.supervised_token / 2) * lengths + rates.squared_token * lengths.astype(np.float64) ** 2


if __name__ == "__main__":
    main()
