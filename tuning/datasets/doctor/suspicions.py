"""What in a row looks like a secret or like data about a person: kinds and lines are told, never what was found."""

import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import NamedTuple


class Suspicion(StrEnum):
    """What a piece of a row looks like."""

    PRIVATE_KEY = "private_key"
    ACCESS_KEY = "access_key"
    """A key of a cloud or of an API, known by how such keys begin."""
    TOKEN = "token"  # noqa: S105 - the name of a kind
    """A signed token (JWT)."""
    EMAIL = "email"
    PHONE_NUMBER = "phone_number"
    """In international form, with a plus."""
    CARD_NUMBER = "card_number"
    """Of a payment card, with a right check digit."""
    BANK_ACCOUNT = "bank_account"
    """An IBAN with right check digits."""


class _Pattern(NamedTuple):
    """What `form` finds counts if it `holds`. Rows without one of `hints`, without any of numbers, are passed over."""

    kind: Suspicion
    hints: tuple[bytes, ...]
    form: re.Pattern[bytes]
    holds: Callable[[bytes], bool] = lambda _: True


def suspicions(line: bytes) -> Iterator[Suspicion]:
    """The kinds that a row, as its line of JSON, is suspected of; each once."""
    text = line.replace(b"\\n", b" \n").replace(b"\\t", b" \t")  # an escape must not look like a letter before a word
    has_numbers = _NUMBER.search(text) is not None
    for pattern in _PATTERNS:
        if not (any(hint in text for hint in pattern.hints) if pattern.hints else has_numbers):
            continue
        if any(pattern.holds(found.group()) for found in pattern.form.finditer(text)):
            yield pattern.kind


def _has_check_digit(number: bytes) -> bool:
    """Luhn's rule, ISO/IEC 7812."""
    digits = [int(digit) for digit in re.sub(rb"\D", b"", number).decode()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _has_check_digits(account: bytes) -> bool:
    """The rest by 97, ISO 13616."""
    packed = account.replace(b" ", b"").decode()
    return 15 <= len(packed) <= 34 and int("".join(str(int(c, 36)) for c in packed[4:] + packed[:4])) % 97 == 1


_NUMBER = re.compile(rb"\d\d")
_ACCESS_KEY = rb"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bgh[pousr]_\w{36}|\bgithub_pat_\w{40}|\bsk-[\w-]{20}|\bhf_\w{30}"
_CARD_NUMBER = re.compile(
    rb"(?<![\w.])(?:\d{4}[ -]?\d{4}[ -]?\d{4}[ -]?\d{4}|3[47]\d\d[ -]?\d{6}[ -]?\d{5})(?![ -]?\d)"
)
_PATTERNS = (
    _Pattern(Suspicion.PRIVATE_KEY, (b"PRIVATE KEY-----",), re.compile(rb"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----")),
    _Pattern(
        Suspicion.ACCESS_KEY,
        (b"AKIA", b"ASIA", b"gh", b"sk-", b"hf_", b"xox", b"AIza"),
        re.compile(_ACCESS_KEY + rb"|\bxox[abprs]-[\w-]{20}|\bAIza[\w-]{35}"),
    ),
    _Pattern(Suspicion.TOKEN, (b"eyJ",), re.compile(rb"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}")),
    _Pattern(Suspicion.EMAIL, (b"@",), re.compile(rb"\b[\w.+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{2,63})+")),
    _Pattern(Suspicion.PHONE_NUMBER, (b"+",), re.compile(rb"(?<!\w)\+[1-9](?:[ ()./-]{0,2}\d){7,14}(?!\d)")),
    _Pattern(Suspicion.CARD_NUMBER, (), _CARD_NUMBER, _has_check_digit),
    _Pattern(
        Suspicion.BANK_ACCOUNT,
        (),
        re.compile(rb"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"),
        _has_check_digits,
    ),
)
