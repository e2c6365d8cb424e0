"""Endpoints as a member of a project makes and changes them, with OpenAI's client and without."""

from collections.abc import Iterator

import pytest
from openai import BadRequestError, NotFoundError, RateLimitError

from tests.control_plane import ControlPlane
from tests.service.webhooks.receiver import HERE, answer, listen, receiving
from tunesmith.service.webhooks.endpoints import MOST_ENDPOINTS
from tunesmith.service.webhooks.sending import Sender
from tunesmith.tuning.api.webhooks.endpoints import EndpointWithSecret

URL = "https://192.0.0.9/hooks"  # a public address by the registry of such, where nobody is
SUCCEEDED = "fine_tuning.job.succeeded"


def test_openais_client_manages_endpoints_and_sees_the_secret_once(control_plane: ControlPlane) -> None:
    client = control_plane.openai()
    made = client.webhooks.create(name="ci", url=URL, event_types=[SUCCEEDED])
    assert made.signing_secret.startswith("whsec_")
    assert made.signing_secret not in repr(made)
    found = client.webhooks.retrieve(made.id)
    assert (found.name, found.url, found.event_types) == ("ci", URL, [SUCCEEDED])
    assert found.signing_secret_hint == f"whsec_...{made.signing_secret[-4:]}"
    assert [item.id for item in client.webhooks.list()] == [made.id]
    changed = client.webhooks.update(made.id, name="night", event_types=["fine_tuning.job.failed"])
    assert (changed.name, changed.event_types, changed.url) == ("night", ["fine_tuning.job.failed"], URL)
    second = client.webhooks.rotate_secret(made.id).signing_secret
    assert second != made.signing_secret
    path = f"/v1/webhook_endpoints/{made.id}"
    for route in ("/v1/webhook_endpoints", path, f"{path}/deliveries"):
        assert second not in control_plane.request("GET", route).text
    assert client.webhooks.event_types.list().data[0] == SUCCEEDED
    assert client.webhooks.delete(made.id).deleted
    with pytest.raises(NotFoundError):
        client.webhooks.retrieve(made.id)


def test_lists_have_pages(control_plane: ControlPlane) -> None:
    client = control_plane.openai()
    made = [client.webhooks.create(name=str(n), url=URL, event_types=[SUCCEEDED]).id for n in range(5)]
    assert [item.id for item in client.webhooks.list(limit=2)] == made[::-1]


def test_a_page_does_not_begin_behind_what_is_not_there(control_plane: ControlPlane) -> None:
    endpoint = listen(control_plane, "http://127.0.0.1:9/")
    foreign = control_plane.openai("stranger").webhooks.create(name="x", url=URL, event_types=[SUCCEEDED]).id
    for path in ("/v1/webhook_endpoints", f"/v1/webhook_endpoints/{endpoint.id}/deliveries"):
        for after in (foreign, "zzz"):
            assert control_plane.request("GET", f"{path}?after={after}").status_code == 404


def test_a_project_has_so_many_and_no_more(control_plane: ControlPlane) -> None:
    client = control_plane.openai()
    for number in range(MOST_ENDPOINTS):
        client.webhooks.create(name=str(number), url=URL, event_types=[SUCCEEDED])
    with pytest.raises(RateLimitError, match="the most that it may have"):
        client.webhooks.create(name="more", url=URL, event_types=[SUCCEEDED])


def test_endpoints_of_another_project_do_not_exist(control_plane: ControlPlane) -> None:
    endpoint = listen(control_plane, "http://127.0.0.1:9/")
    path = f"/v1/webhook_endpoints/{endpoint.id}"
    requests = [("GET", path), ("DELETE", path), ("POST", path), ("POST", f"{path}/rotate_secret")]
    requests += [("GET", f"{path}/deliveries"), ("POST", f"{path}/deliveries/delivery-1/redeliver")]
    for method, route in requests:
        response = control_plane.request(method, route, key="stranger")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "webhook_endpoint_not_found")
    assert control_plane.request("GET", "/v1/webhook_endpoints", key="stranger").json()["data"] == []


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("https://user:secret@192.0.0.9/", "no user and no password"),
        ("https://token@192.0.0.9/", "no user and no password"),
        ("ftp://192.0.0.9/", "begins with https:// or http://"),
        ("file:///etc/passwd", "begins with https:// or http://"),
        ("https:///hooks", "begins with https:// or http://"),
        ("hooks.example", "begins with https:// or http://"),
        ("https://192.0.0.9/#part", "no '#' part"),
        ("https://192.0.0.9/a b", "no spaces"),
        ("https://192.0.0.9:99999/", "port is a number"),
        ("https://192.0.0.9/\r\nx: y", "no spaces"),
        (f"https://192.0.0.9/{'x' * 2048}", "2048"),
    ],
)
def test_a_url_that_is_none_for_webhooks_is_refused_with_the_reason(
    control_plane: ControlPlane, url: str, part: str
) -> None:
    with pytest.raises(BadRequestError) as refused:
        control_plane.openai().webhooks.create(name="ci", url=url, event_types=[SUCCEEDED])
    assert part in refused.value.message
    assert (refused.value.code, refused.value.param) == ("invalid_value", "url")
    assert "secret@" not in refused.value.message


def test_a_name_for_this_machine_is_refused_early_and_an_unknown_one_is_not(control_plane: ControlPlane) -> None:
    client = control_plane.openai()
    with pytest.raises(BadRequestError) as refused:
        client.webhooks.create(name="ci", url="http://localhost/hooks", event_types=[SUCCEEDED])
    assert (refused.value.code, refused.value.param) == ("webhook_address_refused", "url")
    assert "TUNESMITH_WEBHOOK_NETWORKS" in refused.value.body["hint"]  # type: ignore[index]
    made = client.webhooks.create(name="ci", url="https://not-there-yet.invalid/", event_types=[SUCCEEDED])
    with pytest.raises(BadRequestError, match="no public address"):
        client.webhooks.update(made.id, url="http://127.0.0.1/", event_types=[SUCCEEDED])


def test_an_event_that_does_not_exist_is_refused(control_plane: ControlPlane) -> None:
    for types in ([], ["batch.completed"]):
        body = {"name": "ci", "url": URL, "event_types": types}
        error = control_plane.request("POST", "/v1/webhook_endpoints", json=body).json()["error"]
        assert error["param"].startswith("event_types")


@pytest.fixture
def sends_here(live_control_plane: ControlPlane) -> Iterator[None]:
    """The API may send to this machine."""
    state = live_control_plane.app.state
    usual, state.webhook_sender = state.webhook_sender, Sender(HERE, timeout_seconds=5)
    yield
    state.webhook_sender = usual


def test_a_test_sends_a_made_up_event_now(control_plane: ControlPlane, sends_here: None) -> None:
    client = control_plane.openai()
    with receiving(answer(418)) as receiver:
        made = client.webhooks.create(name="ci", url=receiver.url, event_types=[SUCCEEDED])
        result = client.webhooks.test(made.id, event_type=SUCCEEDED)
        assert (result.status_code, result.success) == (418, True)
        headers, body = receiver.came[0]
    event = client.webhooks.unwrap(body, headers, secret=made.signing_secret)
    assert event.type == SUCCEEDED
    with pytest.raises(BadRequestError) as silent:
        client.webhooks.test(made.id, event_type=SUCCEEDED)
    assert silent.value.code == "webhook_not_answered"


def test_a_secret_is_not_in_the_representation_of_an_answer() -> None:
    field = EndpointWithSecret.model_fields["signing_secret"]
    assert not field.repr
