"""A service with a certificate of an authority of its own is believed where SSL_CERT_FILE names that authority."""

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.scripted_service import Reply, ScriptedService
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.worker.transport.greeting import greet
from tunesmith.worker.transport.retry import Unavailable
from tunesmith.worker.transport.wire import _authorities, service_client

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
GREETING = Reply(200, b'{"version": "1", "at": 1.0}', {"x-request-id": "req_1"})


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    file = tmp_path / "service.pem"
    options = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=service"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(tmp_path / "key.pem"), "-out", str(file)]
    subprocess.run(["openssl", "req", "-x509", *options, *names], check=True, capture_output=True)
    return file


@pytest.fixture
def url(service: ScriptedService, certificate: Path) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    service._server.socket = context.wrap_socket(service._server.socket, server_side=True)
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
