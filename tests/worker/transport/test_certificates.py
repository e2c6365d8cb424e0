"""A service with a certificate of an authority of its own is believed where SSL_CERT_FILE names that authority."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import needs_openssl, self_signed, server_context
from tests.worker.scripted_service import Reply, ScriptedService
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.worker.transport.greeting import greet
from tunesmith.worker.transport.retry import Unavailable
from tunesmith.worker.transport.wire import _authorities, service_client

pytestmark = needs_openssl
GREETING = Reply(200, b'{"version": "1", "at": 1.0}', {"x-request-id": "req_1"})


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return self_signed(tmp_path, names="IP:127.0.0.1")


@pytest.fixture
def url(service: ScriptedService, certificate: Path) -> str:
    service._server.socket = server_context(certificate).wrap_socket(service._server.socket, server_side=True)
    service.otherwise = lambda _request: GREETING
    return service.url.replace("http://", "https://")


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    _authorities.cache_clear()
    yield
    _authorities.cache_clear()


def test_its_own_authority_is_believed_when_it_is_named(
    url: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with service_client(url, "ts-x", timeout=10) as client:
        assert greet(client).version == "1"


def test_a_stranger_is_not_believed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with (
        service_client(url, "ts-x", timeout=10) as client,
        pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        greet(client)


def test_a_file_without_certificates_is_told_by_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(InvalidRequest) as refusal:
        service_client("https://127.0.0.1", "ts-x", timeout=1)
    assert refusal.value.param == "SSL_CERT_FILE"
