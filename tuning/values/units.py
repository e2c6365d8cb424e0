"""Numbers as people read them."""

GIB = 1024**3
# Below so many seconds: the unit in seconds, how many decimals it has, and what it is called.
_DURATIONS = (
    (90, 1, 0, "s"),
    (10 * 60, 60, 1, "min"),
    (90 * 60, 60, 0, "min"),
    (48 * 3600, 3600, 1, "h"),
    (10 * 86400, 86400, 1, "days"),
    (365 * 86400, 86400, 0, "days"),
)


def gib(size_bytes: float) -> str:
    """`27.4 GiB`; below a tenth of a GiB in MiB, so that small models do not all read 0.0."""
    if abs(size_bytes) < GIB / 10:
        return f"{size_bytes / 1024**2:.1f} MiB"
    return f"{size_bytes / GIB:,.1f} GiB"


def gib_apart(size_bytes: float, other_bytes: float) -> tuple[str, str]:
    """Both as `gib` writes them, or with as many more decimals as tell them apart."""
    texts = gib(size_bytes), gib(other_bytes)
    digits = 2
    while texts[0] == texts[1] and size_bytes != other_bytes and digits < 5:
        texts = f"{size_bytes / GIB:,.{digits}f} GiB", f"{other_bytes / GIB:,.{digits}f} GiB"
        digits += 1
    return texts


def count(number: float) -> str:
    """`40.4M`, `8.03B`, `950`."""
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        value = number / size
        if abs(value) >= 0.9995:
            digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
            return f"{value:,.{digits}f}{suffix}"
    return f"{number:.0f}"


def plural(number: int, noun: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def instead_of(seconds: float, before: float) -> str:
    """`2.6 h instead of 3.0 h`, or `as long, 3.0 h` where both read the same."""
    text = duration(seconds)
    return f"as long, {text}" if text == duration(before) else f"{text} instead of {duration(before)}"


def against(seconds: float, other: float) -> str:
    """`34 min against 29 min`, or `the same 34 min` where both read the same."""
    text = duration(seconds)
    return f"the same {text}" if text == duration(other) else f"{text} against {duration(other)}"


def span(low: float, high: float) -> str:
    """From one duration to another: `22 - 53 min`, `80 min - 3.2 h`."""
    (first, unit), last = duration(low).split(" "), duration(high)
    return f"{first} - {last}" if last.endswith(f" {unit}") else f"{first} {unit} - {last}"


def duration(seconds: float) -> str:
    """`41 s`, `2.1 min`, `17 min`, `5.2 h`, `3.1 days`, `138 days`, `12.0 years`."""
    for below, unit_seconds, digits, unit in _DURATIONS:
        if seconds < below:
            return f"{seconds / unit_seconds:.{digits}f} {unit}"
    return f"{seconds / (365 * 86400):,.1f} years"
