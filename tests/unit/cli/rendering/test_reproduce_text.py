"""The verdict in words: what is the same, by how much the rest is apart, and what of the circumstances changed."""

from tunesmith.cli.verbs.reproduce import describe
from tunesmith.tuning.api.comparisons.reproductions import ReproductionObject
from tunesmith.tuning.planner.reproduction import Difference, WeightFile

SAME = ReproductionObject(
    verdict="identical",
    job_id="ftjob-2",
    reproduces="ftjob-1",
    weights=(WeightFile(name="adapter_model.safetensors", first_sha256="a", second_sha256="a"),),
    steps_compared=12,
    largest_differences={"train_loss": 0.0, "valid_loss": 0.0},
    first_different_step=None,
    differences=(),
)


def test_identical_runs_are_told_in_few_lines() -> None:
    assert list(describe(SAME)) == [
        "identical   ftjob-2 repeats ftjob-1",
        "  weights     1 of 1 files have the same sha256",
        "  train_loss  the same over 12 steps",
        "  valid_loss  the same over 12 steps",
    ]


def test_what_differs_is_told_with_both_values() -> None:
    changes = {
        "verdict": "differs",
        "weights": (WeightFile(name="w.safetensors", first_sha256="a", second_sha256="b"),),
        "largest_differences": {"train_loss": 0.00123, "valid_loss": None},
        "first_different_step": 3,
        "differences": (Difference(what="versions.torch", first="2.13.0", second="2.14.0"),),
    }
    assert list(describe(SAME.model_copy(update=changes))) == [
        "differs     ftjob-2 repeats ftjob-1",
        "  weights     0 of 1 files have the same sha256",
        "  train_loss  up to 0.00123 apart over 12 steps, from step 3 on",
        "  valid_loss  not in both runs",
        "  differs     versions.torch: 2.13.0 -> 2.14.0",
    ]


def test_a_difference_without_a_known_cause_says_so() -> None:
    apart = SAME.model_copy(update={"verdict": "differs", "first_different_step": 3})
    assert "nothing that was recorded" in list(describe(apart))[-1]
