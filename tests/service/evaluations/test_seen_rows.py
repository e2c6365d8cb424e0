"""An evaluation warns of rows that its models were trained on, before anything is measured."""

import json
from collections.abc import Sequence

import pytest

from tests.control_plane import ControlPlane
from tests.service.evaluations.test_evaluations import created
from tunesmith.service.evaluations import seen_rows
from tunesmith.tuning.values.json_objects import Json


def test_rows_of_the_training_file_are_counted_however_they_are_written(control_plane: ControlPlane) -> None:
    plane = control_plane
    trained_on = plane.upload(rows(range(20)))
    name = tuned(plane, training_file=trained_on)
    (warning,) = seen(plane, name, rows([3, 4, 50, 51, 5], indent=" "))
    assert (warning["model"], warning["file"], warning["used_for"], warning["rows"]) == (
        name,
        trained_on,
        "training",
        3,
    )
    assert f"3 of 5 rows are in {trained_on}" in warning["text"]
    assert seen(plane, name, rows(range(100, 110))) == []
    assert seen(plane, "tiny-llama", rows([3, 4])) == [], "a base was trained elsewhere"


def test_the_very_file_counts_with_all_its_rows_and_is_in_the_report(control_plane: ControlPlane) -> None:
    plane = control_plane
    file = plane.upload(rows(range(20)))
    name = tuned(plane, training_file=file)
    evaluation = created(plane, model=name, against="base", file=file)
    assert [(one["model"], one["rows"]) for one in evaluation["seen_rows"]] == [(name, 20)]
    page = plane.request("GET", f"/v1/evaluations/{evaluation['id']}/report").text
    assert f"Warning:</strong> 20 of 20 rows are in {file}" in page
    assert plane.request("GET", f"/v1/evaluations/{evaluation['id']}").json()["seen_rows"] == evaluation["seen_rows"]


def test_validation_rows_and_those_of_earlier_jobs_are_found_too(control_plane: ControlPlane) -> None:
    plane = control_plane
    first = tuned(plane, training_file=plane.upload(rows(range(20))))
    more, validated_by = plane.upload(rows(range(40, 60))), plane.upload(rows(range(80, 90)))
    second = tuned(plane, model=first, training_file=more, validation_file=validated_by)
    found = seen(plane, second, rows([1, 41, 42, 81, 82, 83]))
    assert [(one["used_for"], one["rows"]) for one in found] == [("training", 2), ("validation", 3), ("training", 1)]
    beside = seen(plane, second, rows([1, 41]), against=first)
    assert [(one["model"], one["rows"]) for one in beside] == [(second, 1), (second, 1), (first, 1)]


def test_files_that_are_gone_or_too_large_are_told_and_gone_ones_never_count_as_equal(
    control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane = control_plane
    gone = plane.upload(rows(range(20)))
    name = tuned(plane, training_file=gone)
    monkeypatch.setattr(seen_rows, "_LARGEST_BYTES", 100)
    assert "has over 100 bytes" in seen(plane, name, rows([1, 2]))[0]["text"]
    plane.sql("UPDATE files SET blob_sha256 = NULL, deleted_at = now() WHERE id = %s", gone)
    (warning,) = seen(plane, name, rows([1, 2]))
    assert (warning["rows"], f"{gone} is gone" in warning["text"]) == (None, True)


def test_the_planner_is_asked_the_same_whatever_was_seen(control_plane: ControlPlane) -> None:
    plane = control_plane
    name = tuned(plane, training_file=plane.upload(rows(range(20))))
    found = [seen(plane, name, rows(numbers)) for numbers in (range(10, 20), range(30, 40))]
    assert list(map(bool, found)) == [True, False]
    questions = plane.sql("SELECT count(DISTINCT question_sha256), count(*) FROM jobs WHERE kind = 'evaluation'")
    assert questions == [(1, 2)]


def rows(numbers: Sequence[int], *, indent: str = "") -> bytes:
    """One row for each number; another `indent` writes the same row otherwise."""
    lines = []
    for number in numbers:
        said = {"role": "user", "content": f"{number} + 1?"}, {"role": "assistant", "content": str(number + 1)}
        lines.append(json.dumps({"messages": said}, separators=(f",{indent}", f":{indent}")))
    return "".join(f"{line}\n" for line in lines).encode()


def tuned(plane: ControlPlane, **fields: str) -> str:
    attempt = plane.claimed(**fields)
    attempt.succeed()
    return str(plane.job(attempt.job_id)["fine_tuned_model"])


def seen(plane: ControlPlane, model: str, content: bytes, **fields: str) -> list[Json]:
    return list(created(plane, model=model, file=plane.upload(content), **fields)["seen_rows"])
