"""The address of a broker is refused with what is supported, and has no certificate unchecked by oversight."""

import pytest

from tunesmith.tuning.values.broker_url import broker_url


@pytest.mark.parametrize(
    "url",
    [
        "redis://valkey:6379/0",
        "redis://:a%40secret@[::1]:6379/0",
        "redis+socket://:secret@/run/valkey.sock",
        "rediss://valkey/0?ssl_cert_reqs=none",
    ],
)
def test_what_is_supported_stays_as_it_is(url: str) -> None:
    assert broker_url(url) == url


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("rediss://valkey:6380/0", "rediss://valkey:6380/0?ssl_cert_reqs=required"),
        ("rediss://v/0?ssl_ca_certs=/ca.pem", "rediss://v/0?ssl_ca_certs=/ca.pem&ssl_cert_reqs=required"),
    ],
)
def test_a_certificate_is_checked_unless_the_address_says_otherwise(url: str, meant: str) -> None:
    assert broker_url(url) == meant


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sentinel://:secret@one:26379/0", "Sentinel .* is not supported"),
        ("redis+sentinel://:secret@one:26379/0", "Sentinel .* is not supported"),
        ("redis://:secret@one;redis://:secret@two", "several brokers"),
        ("amqp://:secret@rabbit", "must be redis://"),
        ("valkey:6379", "must be redis://"),
        ("redis://:a:secret#@valkey:6379/0", "port is no number"),
        ("redis://valkey:secret/0", "port is no number"),
    ],
)
def test_what_is_not_supported_is_refused_without_a_secret_and_with_what_is(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refusal:
        broker_url(url)
    assert "secret" not in str(refusal.value)
