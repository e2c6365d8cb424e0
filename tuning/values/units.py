"""Numbers as people read them."""

GIB = 1024**3


def gib(size_bytes: float) -> str:
    """`27.4 GiB`; below a tenth of a GiB in MiB, so that small models do not all read 0.0."""
    if abs(size_bytes) < GIB / 10:
        return f"{size_bytes / 1024**2:.1f} MiB"
    return f"{size_bytes / GIB:,.1f} GiB"


def count(number: float) -> str:
    """`40.4M`, `8.03B`, `950`."""
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(number) >= size:
            value = number / size
            return (
                f"{value:.2f}{suffix}"
                if value < 10
                else f"{value:.1f}{suffix}"
                if value < 100
                else f"{value:.0f}{suffix}"
            )
    return f"{number:.0f}"


def plural(number: int, noun: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def instead_of(seconds: float, before: float) -> str:
    """`2.6 h instead of 3.0 h`, or `as long, 3.0 h` where both read the same."""
    text = duration(seconds)
    return f"as long, {text}" if text == duration(before) else f"{text} instead of {duration(before)}"


def duration(seconds: float) -> str:
    """`41 s`, `2.1 min`, `17 min`, `5.2 h`, `3.1 days`, `12 years`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 10 * 60:
        return f"{seconds / 60:.1f} min"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    if seconds < 365 * 86400:
        return f"{seconds / 86400:.1f} days"
    return f"{seconds / (365 * 86400):,.1f} years"
