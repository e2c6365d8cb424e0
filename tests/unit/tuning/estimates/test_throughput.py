"""Predicted speed beside measured speed where there is no earlier run to learn from."""

import pytest

from tests.unit.tuning.cases import TINY, cpu, data, plan, spec
from tunesmith.tuning.corrections import Corrections
from tunesmith.tuning.models.catalogue import find_shape
from tunesmith.tuning.search.candidates import Search
from tunesmith.tuning.search.pricing import Pricer, Recipe
from tunesmith.tuning.words import Method

# `python -m benchmarks.training.ours WORKLOAD` on two idle cores of an EPYC with AVX-512 BF16, 2026-11-22: tokens a
# second over all steps of 8 rows, LoRA rank 16, of the benchmark's rows and of rows as short as the demo's.
BENCHMARK_ROWS = data(64, tokens_per_row=191, longest=950, supervised=0.41)
SHORT_ROWS = data(96, tokens_per_row=100, longest=160, supervised=0.15)
MEASURED = [(BENCHMARK_ROWS, 359), (SHORT_ROWS, 380)]


@pytest.mark.parametrize(("rows", "measured"), MEASURED)
def test_the_first_prediction_on_a_cpu_is_within_a_quarter(rows: object, measured: float) -> None:
    chosen = plan(
        "smollm2-135m", cpu(2), dataset=rows, lora={"rank": 16}, hyperparameters={"n_epochs": 1, "batch_size": 8}
    )
    assert chosen.time.tokens_per_second == pytest.approx(measured, rel=0.25)
    assert chosen.time.seconds_low < rows.tokens / measured < chosen.time.seconds_high  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", list(Method))
def test_a_micro_step_alone_is_faster_than_whole_steps(method: Method) -> None:
    for machine in ("1xH100", "1xRTX4090", cpu(2)):
        shape = TINY if machine == cpu(2) else "llama-3.2-1b"
        time = plan(shape, machine, method=method.value, dataset=data(500, tokens_per_row=100, longest=200)).time
        assert time.micro_step_tokens_per_second is not None
        assert time.micro_step_tokens_per_second > time.tokens_per_second


def test_more_cores_are_faster_and_a_correction_scales_everything() -> None:
    def speed(cores: int, factor: float | None) -> tuple[float, float]:
        pricer = Pricer(
            Method.LORA,
            Recipe(spec(), find_shape("smollm2-135m"), SHORT_ROWS),
            corrections=Corrections(speed=factor),
        )
        candidate = Search(pricer, cpu(cores)).chosen()
        assert candidate.time.micro_step_tokens_per_second is not None
        return candidate.time.tokens_per_second, candidate.time.micro_step_tokens_per_second

    assert speed(4, None) > speed(2, None)
    assert speed(2, 0.5) == pytest.approx([value / 2 for value in speed(2, None)])
