"""The command finds a job by whatever a person has of it."""

from collections.abc import Callable

import pytest

from tests.control_plane import ControlPlane
from tunesmith.cli.client import Client
from tunesmith.cli.connection import Connection
from tunesmith.cli.job_names import complete_job, find_job_id
from tunesmith.tuning.errors import InvalidRequest, NotFound

Find = Callable[[str], str]


@pytest.fixture
def find(control_plane: ControlPlane) -> Find:
    def find(given: str) -> str:
        connection = Connection(base_url=f"{control_plane.url}/v1", api_key=control_plane.keys["member"])
        with Client(find=lambda: connection) as client:
            return find_job_id(client, given)

    return find


def test_by_its_id_and_by_the_beginning_or_end_of_it(control_plane: ControlPlane, find: Find) -> None:
    job_id = control_plane.create_job()["id"]
    digits = job_id.removeprefix("ftjob-")
    for given in (job_id, job_id[:20], digits[:12], digits[-8:]):
        assert find(given) == job_id


def test_by_the_name_of_the_newest_of_that_name_and_by_the_model_it_made(
    control_plane: ControlPlane, find: Find, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt = control_plane.claimed(metadata={"name": "nightly"})
    attempt.succeed()
    second = control_plane.create_job(metadata={"name": "nightly"})["id"]
    assert find(control_plane.job(attempt.job_id)["fine_tuned_model"]) == attempt.job_id
    assert find("nightly") == second
    assert "the newest of 2 jobs" in capsys.readouterr().err


def test_what_means_no_job_or_several_is_an_error_that_says_so(control_plane: ControlPlane, find: Find) -> None:
    first, second = (control_plane.create_job()["id"] for _ in range(2))
    shared = first[: next(at for at in range(len(first)) if first[at] != second[at])]
    with pytest.raises(InvalidRequest, match="a part of 2 ids"):
        find(shared)
    for nothing in ("nobody", "abc", "ftjob-"):
        with pytest.raises(NotFound, match="No job of the newest 2"):
            find(nothing)


def test_a_shell_completes_ids_and_names(control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = control_plane.create_job(metadata={"name": "nightly"})["id"]
    monkeypatch.setenv("TUNESMITH_URL", control_plane.url)
    monkeypatch.setenv("TUNESMITH_API_KEY", control_plane.keys["member"])
    assert complete_job("ftj") == [(job_id, "queued, tiny-llama")]
    assert complete_job("nig") == [("nightly", "queued, tiny-llama")]
    monkeypatch.setenv("TUNESMITH_URL", "http://127.0.0.1:9")
    assert complete_job("ftj") == []
