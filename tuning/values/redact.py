"""Takes secrets out of text before it leaves this host: logs and their ends, events, failures, our own log lines."""

import re
from typing import Any

HIDDEN = "[hidden]"

_PATTERNS = (
    re.compile(r"\b(?:hf|sk|ts|lease|join|whsec|ghp|gho|xox[abp])[_-][A-Za-z0-9_\-]{16,}"),  # keys with a known prefix
    re.compile(r"(?i)(?<=bearer )[A-Za-z0-9._~+/\-]{8,}=*"),
    re.compile(r"(?i)(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"),  # user:password of a URL
    re.compile(r"\bAKIA[0-9A-Z]{16}\b"),
    re.compile(r"\beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*"),  # JSON web tokens
    re.compile(
        r"(?i)(?<=[\"'_ ?&])((?:api_?key|token|secret|password|authorization)[\"']?\s*[=:]\s*[\"']?)([^\s\"',}]{8,})"
    ),
)


def scrub(text: str, secrets: tuple[str, ...] = ()) -> str:
    """Return `text` with the given secrets, and everything shaped like one, replaced."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, HIDDEN)
    for pattern in _PATTERNS[:-1]:
        text = pattern.sub(HIDDEN, text)
    return _PATTERNS[-1].sub(rf"\1{HIDDEN}", text)


def scrub_all(value: Any, secrets: tuple[str, ...] = ()) -> Any:
    """The same of every text in a value of JSON; names of fields stay as they are."""
    if isinstance(value, str):
        return scrub(value, secrets)
    if isinstance(value, dict):
        return {key: scrub_all(part, secrets) for key, part in value.items()}
    if isinstance(value, list):
        return [scrub_all(part, secrets) for part in value]
    return value
