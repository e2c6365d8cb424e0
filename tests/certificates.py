"""A certificate that no authority has signed, made for one test, and a server's side of TLS with it."""

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")


def self_signed(folder: Path, *, names: str) -> Path:
    """Make it for `names`, as `DNS:localhost` or `IP:127.0.0.1`, valid for two days; its key is beside it."""
    certificate = folder / "certificate.pem"
    options = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=test"]
    files = ["-keyout", str(key_of(certificate)), "-out", str(certificate)]
    command = ["openssl", "req", "-x509", *options, "-addext", f"subjectAltName={names}", *files]
    subprocess.run(command, check=True, capture_output=True)
    return certificate


def key_of(certificate: Path) -> Path:
    """The file of its private key."""
    return certificate.with_name("key.pem")


def server_context(certificate: Path) -> ssl.SSLContext:
    """What a server wraps its connections with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key_of(certificate))
    return context
