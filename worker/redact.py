"""Takes secrets out of text before it leaves this host: log tails, stored logs and our own log lines."""

import re

HIDDEN = "[hidden]"

_PATTERNS = (
    re.compile(r"\b(?:hf|sk|ts|lease|join|whsec|ghp|gho|xox[abp])[_-][A-Za-z0-9_\-]{16,}"),  # keys with a known prefix
    re.compile(r"(?i)(?<=bearer )[A-Za-z0-9._~+/\-]{8,}=*"),
    re.compile(r"(?i)(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"),  # user:password of a URL
    re.compile(r"\bAKIA[0-9A-Z]{16}\b"),
    re.compile(r"\beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*"),  # JSON web tokens
    re.compile(
        r"(?i)(?<=[\"'_ ])((?:api_?key|token|secret|password|authorization)[\"']?\s*[=:]\s*[\"']?)([^\s\"',}]{8,})"
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
