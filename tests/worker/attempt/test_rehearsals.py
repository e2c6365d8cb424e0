"""A worker learns from runs that succeeded as planned, and from no others."""

from pathlib import Path

import pytest

from tests.plans import plan
from tests.train.runs import make_run
from tunesmith.tuning.messages import CanaryReport
from tunesmith.worker.attempt.rehearsals import Rehearsals
from tunesmith.worker.run_directory import TrainRequest, TrainResult

CANARY = CanaryReport(
    tokens=900,
    longest_row_tokens=90,
    tokens_per_micro_step=1000,
    seconds=1.0,
    tokens_per_second=900,
    peak_memory_bytes=500,
)


@pytest.fixture
def request_of_a_run(tmp_path: Path) -> TrainRequest:
    return make_run(tmp_path, model=tmp_path / "model", plan=plan(tokens_per_micro_step=1000), rows=[]).request()


def result(**changes: object) -> TrainResult:
    return TrainResult.model_validate({"peak_memory_bytes": 600, "tokens_per_micro_step": 1000, **changes})


def test_the_larger_of_both_peaks_is_kept(request_of_a_run: TrainRequest) -> None:
    known = Rehearsals()
    assert known.find(request_of_a_run) is None
    known.remember(request_of_a_run, result(), CANARY)
    found = known.find(request_of_a_run)
    assert found is not None
    assert (found.tokens, found.longest_row_tokens, found.peak_memory_bytes) == (900, 90, 600)


def test_a_run_without_a_canary_makes_it_more_careful_and_never_larger(request_of_a_run: TrainRequest) -> None:
    known = Rehearsals()
    known.remember(request_of_a_run, result(), None)
    assert known.find(request_of_a_run) is None
    known.remember(request_of_a_run, result(), CANARY)
    for peak in (700, 650):
        known.remember(request_of_a_run, result(peak_memory_bytes=peak), None)
        found = known.find(request_of_a_run)
        assert found is not None
        assert (found.tokens, found.peak_memory_bytes) == (900, 700)


@pytest.mark.parametrize(
    "shrunk", [{"tokens_per_micro_step": 500}, {"activation_checkpointing": "full"}, {"peak_memory_bytes": None}]
)
def test_one_that_had_to_shrink_teaches_nothing_and_ends_what_was_known(
    request_of_a_run: TrainRequest, shrunk: dict[str, object]
) -> None:
    known = Rehearsals()
    known.remember(request_of_a_run, result(), CANARY)
    known.remember(request_of_a_run, result(**shrunk), CANARY)
    assert known.find(request_of_a_run) is None


def test_another_base_or_adapter_is_another_run(request_of_a_run: TrainRequest) -> None:
    known = Rehearsals()
    known.remember(request_of_a_run, result(), CANARY)
    for change in ({"model_dir": "/models/other"}, {"adapter_dir": "/models/adapter"}):
        assert known.find(request_of_a_run.model_copy(update=change)) is None


@pytest.mark.parametrize("packs", [True, False])
def test_whether_rows_were_packed_is_remembered(request_of_a_run: TrainRequest, packs: bool) -> None:
    known = Rehearsals()
    known.remember(request_of_a_run, result(packs=packs), CANARY)
    found = known.find(request_of_a_run)
    assert found is not None
    assert found.packs == packs
