"""The planner expects of several GPUs what the trainer's way of sharing rows reaches, and says where that is little."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.tuning.cases import data, plan, rules
from tunesmith.tuning.datasets.balance import drawn_steps, evenness
from tunesmith.tuning.datasets.lengths import BUCKETS, EDGES, bucket_of, typical_lengths
from tunesmith.tuning.estimates.memory import Setup
from tunesmith.tuning.estimates.throughput import Workload, predict, predict_evenness
from tunesmith.tuning.hardware_facts.gpus import what_if
from tunesmith.tuning.models.catalogue import find_shape
from tunesmith.tuning.words import Method


def counts_of(lengths: list[int]) -> tuple[int, ...]:
    counts = [0] * BUCKETS
    for length in lengths:
        counts[bucket_of(length)] += 1
    return tuple(counts)


def test_typical_lengths_follow_the_counts() -> None:
    drawn = random.Random(0)
    lengths = sorted(min(4096, round(drawn.lognormvariate(5.3, 0.9))) for _ in range(5000))
    typical = typical_lengths(counts_of(lengths), mean_tokens=1, longest_tokens=4096, rows=5000)
    assert list(typical) == sorted(typical)
    for share in (0.1, 0.5, 0.9):
        found, real = typical[int(share * len(typical))], lengths[int(share * len(lengths))]
        assert found == pytest.approx(real, rel=0.1)


def test_without_counts_they_have_the_mean_and_the_tail_of_the_data() -> None:
    typical = typical_lengths((), mean_tokens=300, longest_tokens=4096, rows=20_000)
    assert sum(typical) / len(typical) == pytest.approx(300, rel=0.05)
    assert 1000 < typical[-1] < 4096
    assert typical_lengths((), mean_tokens=300, longest_tokens=300, rows=20_000) == pytest.approx([300] * len(typical))


def test_rows_beyond_the_last_edge_count_too() -> None:
    typical = typical_lengths(counts_of([EDGES[-1] + 1] * 10), mean_tokens=1, longest_tokens=200_000, rows=10)
    assert all(EDGES[-1] <= length <= 200_000 for length in typical)


def test_a_step_of_few_long_rows_is_predicted_slower_on_eight_gpus_and_the_plan_says_why() -> None:
    few = data(2_000, tokens_per_row=300, longest=4096)
    many = data(20_000, tokens_per_row=300, longest=4096)
    uneven, even = (plan("llama-3.1-8b", "8xH100", method="lora", dataset=rows) for rows in (few, many))
    assert "balance" in rules(uneven)
    assert "balance" not in rules(even)
    assert uneven.time.tokens_per_second < 0.9 * even.time.tokens_per_second


def test_the_predicted_speed_of_several_gpus_is_that_of_the_busiest() -> None:
    shape, hardware = find_shape("llama-3.1-8b"), what_if("8xH100")
    setup = Setup(
        method=Method.LORA, device="cuda", precision="bf16", tokens_per_micro_step=8192, rank=16, world_size=8
    )
    equal = Workload(
        supervised_share=0.5,
        mean_row_tokens=2000,
        rows_per_step=32,
        total_steps=100,
        epochs=1,
        row_lengths=(2000.0,),
    )
    uneven = replace(equal, row_lengths=(*[1000.0] * 14, 8000.0, 8000.0))
    speeds = [predict(shape, setup, workload=work, hardware=hardware).tokens_per_second for work in (equal, uneven)]
    evenness_of_uneven = predict_evenness(shape, method=setup.method, processes=setup.world_size, workload=uneven)
    assert predict_evenness(shape, method=setup.method, processes=setup.world_size, workload=equal) == pytest.approx(
        1.0
    )
    assert evenness_of_uneven < 0.95
    # Long rows also attend to more tokens, which costs a tenth here.
    assert evenness_of_uneven * 0.8 < speeds[1] / speeds[0] < (evenness_of_uneven + 1) / 2


@given(
    lengths=st.lists(st.floats(1, 10_000), min_size=1, max_size=40).map(tuple),
    rows_per_step=st.integers(1, 80),
    processes=st.integers(1, 16),
)
@settings(max_examples=100, deadline=None)
def test_no_step_comes_out_more_even_than_its_heaviest_row_allows(
    lengths: tuple[float, ...], rows_per_step: int, processes: int
) -> None:
    work = drawn_steps(lengths, 1e-4, rows_per_step)
    assert work.evenness(processes) <= work.most_evenness(processes) * (1 + 1e-9)


def test_equal_rows_come_out_even() -> None:
    equal = data(20_000, tokens_per_row=300, longest=300)
    assert "balance" not in rules(plan("llama-3.1-8b", "8xH100", method="lora", dataset=equal))
    assert evenness([[1.0] * 64], processes=8) == 1.0
