"""Fault points do nothing unless they are asked for, and then exactly what was asked for."""

from pathlib import Path

import pytest

from tunesmith.faults import FOLDER_VARIABLE, Fault, InjectedFault, Point, armed, fault_point, parse


def test_a_point_does_nothing_that_nobody_asked_for() -> None:
    fault_point(Point.AFTER_CLAIM)
    with armed("before_commit=raise"):
        fault_point(Point.AFTER_CLAIM)


def test_a_fault_happens_at_its_passage_and_at_no_other() -> None:
    with armed("after_claim=raise@2"):
        fault_point(Point.AFTER_CLAIM)
        with pytest.raises(InjectedFault):
            fault_point(Point.AFTER_CLAIM)
        fault_point(Point.AFTER_CLAIM)


def test_processes_that_share_a_folder_meet_a_fault_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with armed("after_claim=raise"), pytest.raises(InjectedFault):
        fault_point(Point.AFTER_CLAIM)
    with armed("after_claim=raise"):  # as the next process that comes there
        fault_point(Point.AFTER_CLAIM)


def test_the_form_of_the_variable() -> None:
    assert parse("mid_upload=sleep:1.5@3 after_spawn=kill") == (
        Fault(Point.MID_UPLOAD, "sleep", 1.5, 3),
        Fault(Point.AFTER_SPAWN, "kill", 0.0, 1),
    )
    assert parse("") == ()


@pytest.mark.parametrize("text", ["after_claim", "nowhere=kill", "after_claim=explode", "after_claim=raise@0"])
def test_what_is_not_of_the_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"TUNESMITH_FAULTS|nowhere"):
        parse(text)
