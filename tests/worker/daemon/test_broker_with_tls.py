"""A broker behind TLS carries wake-ups when its certificate is believed, and is not spoken to when it is not."""

import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from kombu import Connection

from tests.certificates import key_of, needs_openssl, self_signed, server_context
from tunesmith.service.announcer import CeleryAnnouncer
from tunesmith.tuning.messages import wake_queue
from tunesmith.tuning.values.broker_url import broker_url
from tunesmith.worker.daemon.broker import BrokerThread

pytestmark = needs_openssl
CLASS = "class-of-this-test"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return self_signed(tmp_path, names="DNS:localhost")


@pytest.fixture
def tls_url(redis_url: str, certificate: Path) -> Iterator[str]:
    """The Valkey of this run, behind TLS at a port; its address without a word on certificates."""
    with behind_tls(redis_url, server_context(certificate)) as url:
        yield url


@contextmanager
def behind_tls(redis_url: str, context: ssl.SSLContext) -> Iterator[str]:
    parts = urlsplit(redis_url)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_forward, args=(listener, context, parts.path), daemon=True).start()
        yield f"rediss://:{parts.password}@localhost:{listener.getsockname()[1]}/0"


def _forward(listener: socket.socket, context: ssl.SSLContext, path: str) -> None:
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(plain, context, path), daemon=True).start()


def _serve(plain: socket.socket, context: ssl.SSLContext, path: str) -> None:
    with plain, socket.socket(socket.AF_UNIX) as valkey:
        valkey.connect(path)
        try:
            with context.wrap_socket(plain, server_side=True) as client:
                while True:  # an answer may come in pieces, and a question too
                    ready = [client] if client.pending() else select.select([client, valkey], [], [])[0]
                    for source, target in ((client, valkey), (valkey, client)):
                        if source in ready:
                            if not (words := source.recv(65536)):
                                return
                            target.sendall(words)
        except OSError:
            return


class Wakes:
    """How many came."""

    count = 0

    def wake(self) -> None:
        self.count += 1

    def listen_once(self, url: str) -> BrokerThread:
        thread = BrokerThread(
            url, queue=wake_queue(CLASS), free_slots=lambda: 1, wake=self.wake, sleep=lambda _seconds: None
        )
        thread.listen_once()
        thread._let_go()
        return thread


@pytest.fixture(autouse=True)
def _empty_queue(redis_url: str) -> None:
    with Connection(redis_url) as connection:
        connection.default_channel.client.delete(wake_queue(CLASS))


def test_wake_ups_go_through_when_the_certificate_is_believed(tls_url: str, certificate: Path) -> None:
    url = broker_url(f"{tls_url}?ssl_ca_certs={certificate}")
    assert CeleryAnnouncer(url).reachable()
    assert CeleryAnnouncer(url).wake(CLASS)
    wakes = Wakes()
    assert not wakes.listen_once(url).is_away.is_set()
    assert wakes.count == 2  # the first contact, and the message


def test_a_certificate_of_a_stranger_is_refused_by_both_sides(tls_url: str) -> None:
    url = broker_url(tls_url)
    assert not CeleryAnnouncer(url).reachable()
    assert not CeleryAnnouncer(url).wake(CLASS)
    wakes = Wakes()
    assert wakes.listen_once(url).is_away.is_set()
    assert wakes.count == 0


def test_a_certificate_of_another_host_is_refused(tls_url: str, certificate: Path) -> None:
    url = broker_url(f"{tls_url.replace('localhost', '127.0.0.1')}?ssl_ca_certs={certificate}")
    assert not CeleryAnnouncer(url).reachable()


def test_the_authorities_of_the_environment_are_believed(
    tls_url: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert CeleryAnnouncer(broker_url(tls_url)).wake(CLASS)
    assert not Wakes().listen_once(broker_url(tls_url)).is_away.is_set()


def test_a_broker_that_wants_a_certificate_of_ours_gets_it(redis_url: str, certificate: Path) -> None:
    context = server_context(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificate)
    with behind_tls(redis_url, context) as url:
        assert not CeleryAnnouncer(broker_url(f"{url}?ssl_ca_certs={certificate}")).wake(CLASS)
    with behind_tls(redis_url, context) as url:  # another port, for kombu keeps connections by their address
        ours = f"ssl_certfile={certificate}&ssl_keyfile={key_of(certificate)}"
        own = broker_url(f"{url}?ssl_ca_certs={certificate}&{ours}")
        assert CeleryAnnouncer(own).wake(CLASS)
        assert not Wakes().listen_once(own).is_away.is_set()
