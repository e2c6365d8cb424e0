"""SHA-256 of text, for the service and the worker alike.

Hashing a file is reading it, which nothing here does: `worker.hashes` hashes files of a worker, `cli.models.hashing`
those of a client.
"""

import hashlib


def sha256_of_text(text: str) -> str:
    """Hex digest of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
