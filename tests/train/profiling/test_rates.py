"""The measured rate of matrix products."""

import itertools

import torch

from tunesmith.worker.train.profiling.rates import matmul_flops_per_second

CPU = torch.device("cpu")


def test_a_rate_is_the_work_of_one_product_over_the_time_it_took() -> None:
    ticks = itertools.count()
    rate = matmul_flops_per_second(torch.float32, device=CPU, clock=lambda: float(next(ticks)))
    assert rate == 2 * 256 * 1024 * 1024  # one tick passes between the two looks at the clock


def test_a_machine_that_is_slow_now_and_then_is_judged_by_its_fastest_product() -> None:
    durations = iter([0.5, 4.0, 1.0, 2.0])
    now = 0.0
    looks = itertools.count()

    def clock() -> float:
        nonlocal now
        if next(looks) in {1, 4, 6, 8}:  # the second look around each product, the first of which warms up
            now += next(durations)
        return now

    rate = matmul_flops_per_second(torch.float32, device=CPU, seconds=0.0, clock=clock)
    assert rate == 2 * 256 * 1024 * 1024 / 1.0


def test_a_real_processor_multiplies_between_a_million_and_a_quadrillion_times_a_second() -> None:
    assert 1e6 < matmul_flops_per_second(torch.bfloat16, device=CPU, seconds=0.05) < 1e15
