"""A query is read as strictly as a body: a key that a route does not know is refused, with the nearest that it does."""

import pytest

from tests.control_plane import ControlPlane


@pytest.mark.parametrize(
    ("path", "param", "hint"),
    [
        ("/v1/fine_tuning/jobs?limt=5", "limt", "Did you mean 'limit'?"),
        ("/v1/fine_tuning/jobs?status=running", "status", "Known here: after, limit, metadata."),
        ("/v1/files?purpos=fine-tune", "purpos", "Did you mean 'purpose'?"),
        ("/v1/files?metadata[team]=a", "metadata[team]", "Known here: "),
        ("/v1/models?limit=3", "limit", "Known here: none."),
    ],
)
def test_an_unknown_key_of_a_query_is_refused_by_name(plane: ControlPlane, path: str, param: str, hint: str) -> None:
    answer = plane.request("GET", path)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("unknown_parameter", param)
    assert error["hint"].startswith(hint)


@pytest.mark.parametrize(
    "query", ["", "?after=&limit=2", "?metadata[team]=a&metadata[night]=1", "?metadata=null", "?limit=2&"]
)
def test_the_keys_that_a_route_has_are_taken(plane: ControlPlane, query: str) -> None:
    status = plane.request("GET", f"/v1/fine_tuning/jobs{query}").status_code
    assert status == (404 if "after=" in query else 200)


def test_a_change_with_an_unknown_key_changes_nothing(control_plane: ControlPlane) -> None:
    job_id = control_plane.create_job()["id"]
    refused = control_plane.request("POST", f"/v1/fine_tuning/jobs/{job_id}/cancel?force=true")
    assert refused.json()["error"]["code"] == "unknown_parameter"
    assert control_plane.job(job_id)["status"] == "queued"
