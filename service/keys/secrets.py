"""Making and hashing secrets. A random 256-bit value needs no slow hash: there is nothing to guess."""

import hashlib
import secrets

KEY_PREFIX = "ts-"
LEASE_PREFIX = "lease-"


def new_secret(prefix: str) -> str:
    """A random 256-bit value behind a prefix that tells people and scanners what it is."""
    return prefix + secrets.token_urlsafe(32)


def sha256_of(secret: str) -> str:
    """What is stored instead of the secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def matches(secret: str, stored_sha256: str) -> bool:
    """Compare in constant time."""
    return secrets.compare_digest(sha256_of(secret), stored_sha256)
