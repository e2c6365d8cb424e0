"""Making and comparing secrets. Their SHA-256 is stored: 256 random bits need no slow hash, nobody can guess them."""

import secrets

from tunesmith.tuning.values.hashes import sha256_of_text

KEY_PREFIX = "ts-"
JOIN_PREFIX = "join-"


def new_secret(prefix: str) -> str:
    """A random 256-bit value behind a prefix that tells people and scanners what it is."""
    return prefix + secrets.token_urlsafe(32)


def matches(secret: str, stored_sha256: str) -> bool:
    """Compare in constant time."""
    return secrets.compare_digest(sha256_of_text(secret), stored_sha256)
